// The report's gallery and lists. Everything that comes from the archive is set as text, never as HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const BATCH = 24; // Cards that are added at a time.
const ROWS = 50; // Rows of a list that are shown at a time.
const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children; `dataset`, `aria-...` and SVG's names are attributes. */
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const number = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
const plural = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;
const name = (text) => element("bdi", { textContent: text });

// Pages -------------------------------------------------------------------------------------------

const gallery = document.getElementById("gallery");
const filters = document.getElementById("filters");
const more = document.getElementById("more");
let chosen = []; // Pages that pass the filters.
let cards = 0; // How many of them are shown.

/** What the filters say. */
function wanted() {
  const value = (field) => filters.elements[field].value;
  const low = value("low") === "" ? 0 : Number(value("low"));
  const high = value("high") === "" ? 1 : Number(value("high"));
  return {
    flag: value("flag"),
    code: value("class") === "" ? null : Number(value("class")),
    low: 1000 * low,
    high: 1000 * high,
    document: value("document").trim().toLowerCase(),
  };
}

/** The regions of a page of the class and the scores that are asked for. */
function regionsOf(page, filter) {
  return page.regions.filter(
    ([code, score]) =>
      (filter.code === null || code === filter.code) && score >= filter.low && score <= filter.high,
  );
}

function passes(page, filter) {
  if (filter.flag === "any" && !page.flags.length) return false;
  if (filter.flag !== "" && filter.flag !== "any" && !page.flags.includes(filter.flag)) return false;
  if (!page.document.toLowerCase().includes(filter.document)) return false;
  const asked = filter.code !== null || filter.low > 0 || filter.high < 1000;
  return !asked || regionsOf(page, filter).length > 0;
}

/** A page's picture under its regions; with `labels`, their places and classes are written to them. */
function sheet(page, regions, labels) {
  const what = `Page ${page.page} of ${page.document}, ${plural(page.regions.length, "region")}`;
  const image = element("img", { src: page.picture, alt: what });
  const overlay = svg("svg", { viewBox: `0 0 ${page.width} ${page.height}`, "aria-hidden": "true" });
  const size = Math.max(page.width, page.height) / 60;
  for (const [code, score, x, y, width, height, place] of regions) {
    const title = svg("title", {});
    title.textContent = `${place} ${data.classes[code]} ${(score / 1000).toFixed(2)}`;
    overlay.append(
      svg("rect", { x, y, width, height, class: `class-${code}`, "data-place": place }, title),
    );
    if (!labels) continue;
    const label = svg("text", { x: x + size / 3, y: y + size, "font-size": size, "stroke-width": size / 5 });
    label.textContent = `${place} ${data.classes[code]}`;
    overlay.append(label);
  }
  const made = element("span", { className: "sheet" }, image, overlay);
  made.style.setProperty("--ratio", page.width / page.height);
  return made;
}

function tags(page) {
  const made = page.flags.map((flag) => element("span", { className: "tag", textContent: flag }));
  return element("p", { className: "tags" }, ...made);
}

function card(page, index, filter) {
  const title = `Look at page ${page.page} of ${page.document}`;
  const button = element("button", { type: "button", "aria-label": title });
  button.append(sheet(page, regionsOf(page, filter), false));
  button.addEventListener("click", () => open(index));
  const count = element("span", {
    textContent: `page ${number(page.page)}, ${plural(page.regions.length, "region")}`,
  });
  return element(
    "article",
    { className: "card" },
    button,
    element("span", { className: "name", title: page.document }, name(page.document)),
    count,
    tags(page),
  );
}

function addCards() {
  const filter = wanted();
  const next = chosen.slice(cards, cards + BATCH);
  gallery.append(...next.map((page, index) => card(page, cards + index, filter)));
  cards += next.length;
  more.hidden = cards >= chosen.length;
  const status = document.getElementById("shown");
  if (!chosen.length) status.textContent = "No pictured page is like that.";
  else status.textContent = `${number(cards)} of ${plural(chosen.length, "page")} shown`;
}

function choose() {
  const filter = wanted();
  chosen = data.pages.filter((page) => passes(page, filter));
  cards = 0;
  gallery.replaceChildren();
  addCards();
}

/** Fill the menus with what there is, most of it first the pages to look at. */
function fillFilters() {
  const option = (value, text) => element("option", { value, textContent: text });
  const flagged = data.pages.filter((page) => page.flags.length);
  const counted = (flag) => data.pages.filter((page) => page.flags.includes(flag)).length;
  const flags = data.flags.filter((flag) => counted(flag));
  filters.elements.flag.append(
    option("", `all pictured pages (${data.pages.length})`),
    ...(flagged.length ? [option("any", `pages with any flag (${flagged.length})`)] : []),
    ...flags.map((flag) => option(flag, `${flag} (${counted(flag)})`)),
  );
  filters.elements.class.append(
    option("", "any class"),
    ...data.classes.map((each, code) => option(String(code), each)),
  );
  // A reset comes back to it.
  const first = filters.elements.flag.options[flagged.length ? 1 : 0];
  first.defaultSelected = true;
  const items = data.classes.map((each, code) =>
    element("li", {}, element("i", { className: `swatch class-${code}` }), name(each)),
  );
  document.getElementById("legend").append(...items);
}

function startGallery() {
  fillFilters();
  let waiting;
  filters.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(choose, 120);
  });
  filters.addEventListener("reset", () => setTimeout(choose));
  filters.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", addCards);
  for (const button of document.querySelectorAll("button[data-flag]")) {
    button.addEventListener("click", () => {
      filters.reset();
      filters.elements.flag.value = button.dataset.flag;
      choose();
      filters.scrollIntoView({ block: "start" });
    });
  }
  choose();
}

// One page ----------------------------------------------------------------------------------------

const dialog = document.getElementById("page");
let current = 0;

/** A word for a POSIX shell. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);

function facts(page, regions) {
  const found = [tags(page)];
  if (page.note) found.push(element("p", { className: "note", textContent: page.note }));
  const size = `${number(page.width)} × ${number(page.height)} pixels`;
  found.push(element("p", {}, `${size}, ${plural(page.regions.length, "region")}`));
  const rows = regions.map(([code, score, , , width, height, place]) => {
    const share = (100 * width * height) / (page.width * page.height);
    const row = element(
      "tr",
      {},
      element("td", { className: "n", textContent: place }),
      element("td", {}, element("i", { className: `swatch class-${code}` }), name(data.classes[code])),
      element("td", { className: "n", textContent: (score / 1000).toFixed(2) }),
      element("td", { className: "n", textContent: `${share.toFixed(1)} %` }),
    );
    const mark = (on) => () => {
      const box = dialog.querySelector(`rect[data-place="${place}"]`);
      for (const each of [row, box]) each.classList.toggle("on", on);
    };
    row.addEventListener("mouseenter", mark(true));
    row.addEventListener("mouseleave", mark(false));
    return row;
  });
  if (rows.length) {
    const heads = ["Order", "Class", "Score", "Of the page"].map((text, index) =>
      element("th", { scope: "col", className: index === 1 ? "" : "n", textContent: text }),
    );
    const head = element("thead", {}, element("tr", {}, ...heads));
    found.push(element("table", {}, head, element("tbody", {}, ...rows)));
  }
  found.push(element("p", { className: "note", textContent: "Its image, below results/:" }));
  found.push(element("pre", { textContent: page.image }));
  // A name that is shown with codes in it is not the name that the tool knows.
  if (!page.document.includes("<U+")) {
    const options = `--documents ${quoted(page.document)} --pages ${page.page}`;
    found.push(element("p", { className: "note", textContent: "In full size, with its regions:" }));
    found.push(element("pre", { textContent: `${data.draw} ${options}` }));
  }
  return found;
}

function open(index) {
  current = index;
  const page = chosen[index];
  const regions = regionsOf(page, wanted());
  document.getElementById("page-title").replaceChildren(name(page.document), `, page ${page.page}`);
  dialog.querySelector(".picture").replaceChildren(sheet(page, regions, true));
  dialog.querySelector(".facts").replaceChildren(...facts(page, regions));
  for (const button of dialog.querySelectorAll("[data-step]")) {
    button.disabled = !chosen[current + Number(button.dataset.step)];
  }
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  if (chosen[current + by]) open(current + by);
}

function startDialog() {
  for (const button of dialog.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => step(Number(button.dataset.step)));
  }
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}

// Lists -------------------------------------------------------------------------------------------

const HEADS = {
  document: "Document",
  page: "Page",
  pages: "Pages",
  pages_failed: "Failed pages",
  regions: "Regions",
  flagged: "Flagged pages",
  status: "Outcome",
  stage: "Stage",
  reason: "Reason",
  message: "Message",
};

/** A list of rows given by columns, that is searched by text, sorted by column, shown in parts. */
function startListing(place) {
  const columns = data[place.dataset.table];
  const names = Object.keys(columns);
  const rows = columns.document.length;
  const texts = names.filter((each) => columns[each].some((value) => typeof value === "string"));
  const haystacks = Array.from({ length: rows }, (_, row) =>
    texts.map((each) => columns[each][row] ?? "").join("\n").toLowerCase(),
  );
  let order = Array.from({ length: rows }, (_, row) => row);
  let sorted = { column: "", by: 0 };
  let shown = ROWS;

  const search = element("input", { type: "search", placeholder: "any part of it", autocomplete: "off" });
  const status = element("p", { className: "status", role: "status" });
  const body = element("tbody");
  const next = element("button", { type: "button", textContent: "Show more" });
  const heads = names.map((each) => {
    const button = element("button", { type: "button", textContent: HEADS[each] });
    button.addEventListener("click", () => sort(each));
    return element("th", { scope: "col", className: texts.includes(each) ? "" : "n" }, button);
  });

  function sort(column) {
    const by = sorted.column === column ? -sorted.by : texts.includes(column) ? 1 : -1;
    sorted = { column, by };
    const values = columns[column];
    const compare = texts.includes(column)
      ? new Intl.Collator("en", { numeric: true }).compare
      : (one, other) => one - other;
    order.sort((one, other) => by * compare(values[one] ?? "", values[other] ?? "") || one - other);
    heads.forEach((head, index) => {
      if (names[index] === column) head.setAttribute("aria-sort", by > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    show();
  }

  function show() {
    const text = search.value.trim().toLowerCase();
    const found = text ? order.filter((row) => haystacks[row].includes(text)) : order;
    body.replaceChildren(
      ...found.slice(0, shown).map((row) =>
        element(
          "tr",
          {},
          ...names.map((each) => {
            const value = columns[each][row];
            if (!texts.includes(each)) {
              return element("td", { className: "n", textContent: value === null ? "" : number(value) });
            }
            return element("td", { className: "any" }, name(value ?? ""));
          }),
        ),
      ),
    );
    status.textContent = `${number(Math.min(shown, found.length))} of ${plural(found.length, "row")} shown`;
    next.hidden = found.length <= shown;
  }

  search.addEventListener("input", () => {
    shown = ROWS;
    show();
  });
  next.addEventListener("click", () => {
    shown += 4 * ROWS;
    show();
  });
  const label = element("label", { className: "wide" }, "Search ", search);
  const head = element("thead", {}, element("tr", {}, ...heads));
  place.append(
    element("div", { className: "filters" }, label),
    status,
    element("table", {}, head, body),
    element("p", { className: "pager" }, next),
  );
  show();
}

for (const place of document.querySelectorAll(".listing")) startListing(place);
if (data.pages.length) {
  startDialog();
  startGallery();
}
