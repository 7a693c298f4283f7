// A table that sorts by a button in each heading and filters by a text.
//
// columns: {title, value(row), text(row)?, number?, part(row)?, wide?}; rows: any. `text` is what stands there, `value` is
// what is sorted by, `part` from 0 to 1 is drawn as a bar behind it. `key(row)` names a row, `onPick` makes rows clickable.
function makeTable(id, caption, columns, rows, { key = null, onPick = null, filter = true } = {}) {
  const body = el("tbody");
  const count = el("span", { class: "count", role: "status" });
  const entries = rows.map((row, place) => ({ row, place, node: null, words: "" }));
  let sorted = { column: null, descending: false };

  for (const entry of entries) {
    const cells = columns.map((column, place) => cellOf(column, entry.row, place === 0));
    entry.words = cells.map((cell) => cell.textContent).join(" ").toLowerCase();
    entry.node = el("tr", { "data-key": key ? key(entry.row) : null }, ...cells);
    if (onPick) entry.node.addEventListener("click", () => onPick(entry.row));
  }
  if (onPick) body.addEventListener("keydown", pickByKey);

  const headings = columns.map((column) =>
    el(
      "th",
      { scope: "col", "aria-sort": "none", class: column.number ? "number" : null },
      el("button", { type: "button", title: column.hint || null, click: () => sortBy(column) }, column.title),
    ),
  );

  const field = el("input", { type: "search", id: `${id}-filter`, input: () => draw() });

  // Numbers begin with the largest, texts with the first; the third time the order is the network's again.
  function sortBy(column) {
    if (sorted.column !== column) sorted = { column, descending: Boolean(column.number) };
    else if (sorted.descending === Boolean(column.number)) sorted = { column, descending: !sorted.descending };
    else sorted = { column: null, descending: false };
    draw();
  }

  function compare(a, b) {
    const [first, second] = [sorted.column.value(a.row), sorted.column.value(b.row)];
    const missing = [first, second].map((value) => value === null || value === undefined);
    if (missing[0] || missing[1]) return missing[0] - missing[1] || a.place - b.place;
    const order = typeof first === "number" ? first - second : String(first).localeCompare(second, "en", { numeric: true });
    return (sorted.descending ? -order : order) || a.place - b.place;
  }

  // One row is in the order of Tab, arrow keys go on to the others as they stand now.
  function pickByKey(event) {
    const entry = entries.find(({ node }) => node === event.target);
    if (!entry) return;
    const next = { ArrowDown: entry.node.nextSibling, ArrowUp: entry.node.previousSibling }[event.key];
    if (next) {
      entry.node.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") onPick(entry.row);
    else if (next === undefined) return;
    event.preventDefault();
  }

  function draw() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = entries.filter((entry) => words.every((word) => entry.words.includes(word)));
    if (sorted.column) shown.sort(compare);
    headings.forEach((heading, place) => {
      const order = sorted.descending ? "descending" : "ascending";
      heading.setAttribute("aria-sort", sorted.column === columns[place] ? order : "none");
    });
    body.replaceChildren(...shown.map((entry) => entry.node));
    if (onPick) shown.forEach(({ node }, place) => node.setAttribute("tabindex", place ? "-1" : "0"));
    count.textContent = shown.length === rows.length ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`;
  }

  draw();
  const tools = filter
    ? el("div", { class: "tools" }, el("label", { for: field.id }, "Filter "), field, count)
    : null;
  const table = el("table", { id }, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...headings)), body);
  const scroller = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
  return { node: el("div", { class: "table" }, tools, scroller), rowOf };

  // Rows by their number in the network's order: two units that can't change may have one name.
  function rowOf(place) {
    const { node } = entries[place];
    if (!node.isConnected) {
      field.value = "";
      draw();
    }
    return node;
  }
}

function cellOf(column, row, first) {
  const value = column.value(row);
  const text = column.text ? column.text(row) : value === null || value === undefined ? "–" : String(value);
  const cell = el(first ? "th" : "td", { scope: first ? "row" : null, title: first ? text : null, class: column.number ? "number" : null });
  if (column.part && isNumber(column.part(row))) {
    const bar = svg("svg", { class: "bar", "aria-hidden": "true", viewBox: "0 0 100 10", preserveAspectRatio: "none" });
    const width = Math.max(0, Math.min(1, column.part(row))) * 100;
    bar.append(svg("rect", { width: 100, height: 10, class: "track" }), svg("rect", { width, height: 10, class: "fill" }));
    cell.append(bar);
  }
  if (text.length > 60) cell.append(el("span", { class: "long", title: text }, text));
  else cell.append(text);
  return cell;
}

// Show which row is chosen, and bring it into sight inside its table.
function chooseRow(table, place) {
  const row = table.rowOf(place);
  for (const other of table.node.querySelectorAll("tr[aria-selected]")) other.removeAttribute("aria-selected");
  row.setAttribute("aria-selected", "true");
  const scroller = table.node.querySelector(".scroll");
  scroller.scrollTop = row.offsetTop - scroller.clientHeight / 2;
}
