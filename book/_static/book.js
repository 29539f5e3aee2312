// Cards over numbers and terms, filters of tables, and links that lead into folded rows. Works from disk; without it a
// number keeps its title and its link, a term its link, and the list of a number's origin stands in its box's folded part.
document.addEventListener("DOMContentLoaded", () => {
  // A card over a number that has a title, or stands in a box, and over a term whose entry the page holds.
  const card = document.createElement("div");
  card.id = "number-card";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.body.append(card);
  let shown = null, leaving = 0;

  // Terms and texts of a list on the page.
  const pairs = list => [...(list?.children ?? [])].filter(each => each.matches("dt"))
    .map(each => [each.textContent, each.nextElementSibling.textContent]);
  // Parameters of several results, `name = value` each: where they differ, all values.
  const joined = texts => {
    const values = new Map();
    for (const each of texts.flatMap(text => text.split(", "))) {
      const [name, value] = each.split(" = ");
      values.set(name, (values.get(name) ?? new Set()).add(value));
    }
    return [...values].map(([name, found]) => `${name} = ${[...found].join(" or ")}`).join(", ");
  };
  const together = (term, texts) => {
    if (term === "parameters" && texts.length > 1) return joined(texts);
    if (term === "seconds") return String(Number(texts.reduce((sum, text) => sum + Number(text), 0).toPrecision(4)));
    const different = [...new Set(texts)];
    return different.length > 4 && term === "result" ? `${different.length} results` : different.join(", ");
  };
  // What is said of a number: by its title, by its row, by the list of its check, by the lists of the results.
  const told = number => {
    const said = new Map();
    const say = (term, text) => { if (text && !said.has(term)) said.set(term, text); };
    for (const each of (number.dataset.title ?? "").split("\n").filter(Boolean))
      say(each.slice(0, each.indexOf(": ")), each.slice(each.indexOf(": ") + 2));
    const row = number.closest("table.check-values tr");
    const heads = row ? [...row.closest("table").rows[0].cells].map(cell => cell.textContent || "number") : [];
    heads.forEach((term, column) => say(term, row.cells[column].textContent));
    const box = number.closest(".check");
    if (!box) return said;
    say("paper", "prints none");
    say("seeds", number.dataset.seeds);
    const item = number.closest(".check-item") ?? box.querySelectorAll(".check-item")[number.dataset.item];
    const list = item?.querySelector("dl");
    pairs(list).forEach(([term, text]) => say(term, text));
    const runs = (number.dataset.run ?? list?.dataset.runs ?? "").split(" ").filter(Boolean);
    const found = new Map();
    for (const [term, text] of runs.flatMap(run => pairs(document.getElementById(`run-${run}`))))
      found.set(term, [...(found.get(term) ?? []), text]);
    const shared = new Map(runs.includes("page") ? [] : pairs(document.getElementById("run-all"))).get("parameters");
    const own = found.get("parameters") ?? [];
    if (shared) found.set("parameters", [[own.length ? joined(own) : "", shared].filter(Boolean).join(", ")]);
    for (const [term, texts] of found) say(term, together(term, texts));
    return said;
  };
  const lines = number => [...told(number)].flatMap(([term, text]) => {
    const name = document.createElement("dt"), words = document.createElement("dd");
    name.textContent = term;
    words.textContent = text;
    return [name, words];
  });
  // The entry of a term in the glossary, which links to it; nothing for a number.
  const entry = link => link.hash && document.getElementById(`about-${decodeURIComponent(link.hash.slice(1))}`);
  const meaning = text => {
    const lead = document.createElement("small");
    lead.textContent = "Follow the link for the glossary.";
    return [...[...text.childNodes].map(node => node.cloneNode(true)), document.createElement("br"), lead];
  };
  const place = number => {
    const box = number.getBoundingClientRect(), room = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(box.left, room - card.offsetWidth - 8));
    const above = box.bottom + card.offsetHeight + 8 > innerHeight && box.top > card.offsetHeight + 8;
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${scrollY + (above ? box.top - card.offsetHeight - 4 : box.bottom + 4)}px`;
  };
  const show = number => {
    clearTimeout(leaving);
    if (shown === number) return;
    hide();
    shown = number;
    const text = number.matches("a.number") ? null : entry(number);
    const list = document.createElement(text ? "div" : "dl");
    list.append(...(text ? meaning(text) : lines(number)));
    card.replaceChildren(list);
    card.hidden = false;
    number.setAttribute("aria-describedby", card.id);
    place(number);
  };
  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    card.hidden = true;
  };
  const leave = () => { clearTimeout(leaving); leaving = setTimeout(hide, 200); };
  card.addEventListener("pointerenter", () => clearTimeout(leaving));
  card.addEventListener("pointerleave", leave);
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  document.addEventListener("pointerdown", event => { if (!event.target.closest("a.number, a.term, #number-card")) hide(); });

  const terms = [...document.querySelectorAll('article a[href*="#term-"]')].filter(entry);
  for (const link of terms) link.classList.add("term");
  for (const number of [...document.querySelectorAll(".check a.number, a.number[title]"), ...terms]) {
    if (number.title) number.dataset.title = number.title;
    number.removeAttribute("title");  // the browser would show it beside the card
    let touched = false;
    number.addEventListener("pointerenter", event => { if (event.pointerType !== "touch") show(number); });
    number.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") leave(); });
    number.addEventListener("pointerdown", event => { touched = event.pointerType === "touch" && shown !== number; });
    number.addEventListener("focus", () => show(number));
    number.addEventListener("blur", leave);
    number.addEventListener("click", event => {  // the first tap shows the card, the second follows the link
      if (touched) { event.preventDefault(); show(number); }
      touched = false;
    });
  }

  // Filters: a text, and choices held against the rows' data.
  for (const filters of document.querySelectorAll("[data-filters]")) {
    const fields = [...filters.querySelectorAll("[data-filter]")];
    const rows = [...document.querySelectorAll(`${filters.dataset.filters} > tbody > tr`)];
    const fits = (row, field) => !field.value || (field.dataset.filter === "text"
      ? row.textContent.toLowerCase().includes(field.value.toLowerCase()) : row.dataset[field.dataset.filter] === field.value);
    const apply = () => {
      for (const row of rows) row.hidden = !fields.every(field => fits(row, field));
      const left = rows.filter(row => !row.hidden).length;
      filters.querySelector(".ledger-shown").textContent = `${left} of ${rows.length} ${filters.dataset.noun}`;
    };
    for (const field of fields) field.addEventListener("input", apply);
    apply();
  }

  // A link into something folded opens it.
  const open = () => {
    let place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place) return;
    const own = place.matches("table.ledger tr") ? place.querySelector("details") : null;
    if (own) own.open = true;
    let folded = false;
    for (let outer = place.parentElement; outer; outer = outer.parentElement)
      if (outer.matches("details") && !outer.open) { outer.open = true; folded = true; }
    if (own || folded) place.scrollIntoView({behavior: "instant"});
  };
  addEventListener("hashchange", open);
  open();
});
