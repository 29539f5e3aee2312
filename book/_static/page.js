// Small help for readers: boxes that scroll sideways can be reached from the keyboard, figures open at full size, and
// proofs are open on paper.
(() => {
  const boxes = "div.math, .ledger-scroll, .cell_output, .pst-scrollable-table-container, div.highlight pre";
  const reachable = () => document.querySelectorAll(boxes).forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  const sizes = new ResizeObserver(reachable);  // told after the layout; at the event "resize" it is not done
  addEventListener("load", () => document.querySelectorAll(boxes).forEach((box) => sizes.observe(box)));
  addEventListener("toggle", reachable, true);

  // A figure opens in a dialog, as large as its points allow; without this script its link leads to the picture alone.
  let dialog;
  const enlarge = (link) => {
    dialog ??= document.body.appendChild(document.createElement("dialog"));
    const [close, frame, picture] = ["button", "div", "img"].map((tag) => document.createElement(tag));
    const shown = link.querySelector("img"), words = link.parentElement.querySelector("figcaption");
    dialog.className = "enlarged";
    dialog.setAttribute("aria-label", `${words?.querySelector(".figure-number")?.textContent ?? "Figure"} at full size`);
    close.type = "button";
    close.textContent = "Close";
    close.onclick = () => dialog.close();
    dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };  // beside it
    frame.tabIndex = 0;  // the arrow keys move a picture that is larger than the screen
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", "The picture, which scrolls");
    picture.alt = words?.textContent ?? shown.alt;
    picture.onload = () => {  // as wide as on the page at least, and in a wide window up to one point for each of its own
      picture.width = Math.max(shown.getAttribute("width") ?? 0, Math.min(picture.naturalWidth, innerWidth * 0.97 - 20));
    };
    picture.src = link.href;
    frame.append(picture);
    dialog.replaceChildren(close, frame);
    dialog.showModal();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.enlarge");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    enlarge(link);
  });

  let opened = [], theme = "light";
  addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    opened = [...document.querySelectorAll("details.sd-dropdown:not([open])")];
    opened.forEach((proof) => { proof.open = true; });
  });
  addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = theme;
    opened.forEach((proof) => { proof.open = false; });
  });
})();
