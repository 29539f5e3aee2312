// Small help for readers: boxes that scroll sideways can be reached from the keyboard, and proofs are open on paper.
(() => {
  const boxes = "div.math, .ledger-scroll, .cell_output, .pst-scrollable-table-container, div.highlight pre";
  const reachable = () => document.querySelectorAll(boxes).forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  addEventListener("load", reachable);
  addEventListener("resize", reachable);
  addEventListener("toggle", reachable, true);

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.sd-dropdown:not([open])")];
    opened.forEach((proof) => { proof.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((proof) => { proof.open = false; }));
})();
