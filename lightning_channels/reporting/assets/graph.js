// The units as boxes, and between them the modules that read one and write another.
function makeGraph(data, onPick) {
  const { width, height, node: box, nodes, wires } = data.graph;
  const counts = data.units.map((unit) => unit.active);
  const paths = wires.map((wire) =>
    svg("path", { d: wire.path, class: wire.returns ? "wire returns" : "wire", "marker-end": "url(#head)" }),
  );
  const start = commonStart(data.units.map((unit) => unit.label));
  // What no module writes has the name of the first one that it goes into.
  const isInput = (unit) => unit.read.length > 0 && !unit.written.length && !unit.through.length;
  const labelOf = (unit) => (isInput(unit) ? `→ ${short(unit.label.slice(start), 19)}` : short(unit.label.slice(start), 21));
  const boxes = data.units.map((unit, place) => {
    const [x, y] = nodes[place];
    const fill = svg("rect", { class: "fill", x: 8, y: box[1] - 13, width: 0, height: 6, rx: 1 });
    const count = svg("text", { class: "count", x: box[0] - 8, y: box[1] - 7, "text-anchor": "end" });
    const group = svg(
      "g",
      { class: unit.mutable ? "unit" : "unit fixed", transform: `translate(${x} ${y})`, role: "button", "data-unit": unit.name },
      svg("rect", { class: "box", width: box[0], height: box[1], rx: 5 }),
      svg("text", { class: "label", x: 8, y: 15 }, labelOf(unit)),
      svg("rect", { class: "track", x: 8, y: box[1] - 13, width: box[0] - 80, height: 6, rx: 1 }),
      fill,
      count,
    );
    group.addEventListener("click", () => onPick(place));
    tip.on(group, () => [unit.name, about(place)], () => light(place), () => light(null));
    return { group, fill, count };
  });
  roving(boxes.map(({ group }) => group), onPick);

  function about(place) {
    const unit = data.units[place];
    const lines = [["channels", `${counts[place]} of ${unit.channels}`]];
    if (unit.mutable) lines.push(["may be", unit.widths]);
    else lines.push(["can't change", unit.place ? `${unit.reason}: ${unit.place}` : unit.reason]);
    if (unit.mutable) lines.push(["type", unit.type]);
    if (unit.groups > 1) lines.push(["groups", `${unit.groups}, which keep the same channels`]);
    for (const [what, names] of [["written by", unit.written], ["read by", unit.read], ["through", unit.through]]) {
      if (names.length) lines.push([what, listed(names, 3)]);
    }
    lines.push(["parameters", share(unit.params)]);
    return lines;
  }

  // Bring out one unit with what it reads and what reads it.
  function light(place) {
    const near = new Set([place]);
    wires.forEach((wire, number) => {
      const touches = place !== null && (wire.from === place || wire.to === place);
      paths[number].classList.toggle("lit", touches);
      if (touches) {
        near.add(wire.from).add(wire.to);
        paths[number].parentNode.append(paths[number]);
      }
    });
    picture.classList.toggle("dimmed", place !== null);
    boxes.forEach(({ group }, number) => group.classList.toggle("lit", near.has(number)));
  }

  function draw() {
    boxes.forEach(({ group, fill, count }, place) => {
      const unit = data.units[place];
      fill.setAttribute("width", ((box[0] - 80) * counts[place]) / unit.channels);
      count.textContent = counts[place] === unit.channels ? String(unit.channels) : `${counts[place]}/${unit.channels}`;
      const state = unit.mutable ? "" : ", can't change";
      group.setAttribute("aria-label", `${isInput(unit) ? "input of " : ""}${unit.label}: ${counts[place]} of ${unit.channels} channels${state}`);
    });
  }

  const head = svg(
    "marker",
    { id: "head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" },
    svg("path", { d: "M0 0L8 4L0 8z", class: "head" }),
  );
  const picture = svg(
    "svg",
    { id: "graph", class: wires.length > 200 ? "many" : null, viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "Units of the network" },
    svg("defs", {}, head),
    svg("g", {}, ...paths),
    svg("g", {}, ...boxes.map(({ group }) => group)),
  );

  const said = el("p", { class: "said", role: "status" });
  const back = el("button", { type: "button", hidden: true, click: () => show(null) }, "Show the current widths");
  const fit = el("button", { type: "button", "aria-pressed": "false", click: toggle }, "Whole graph");

  function toggle() {
    const whole = fit.getAttribute("aria-pressed") === "false";
    fit.setAttribute("aria-pressed", String(whole));
    scroller.classList.toggle("whole", whole);
  }

  // Show the widths of a candidate, or those of now.
  function show(widths, text = "") {
    data.units.forEach((unit, place) => {
      counts[place] = widths && widths.has(unit.name) ? widths.get(unit.name) : unit.active;
    });
    said.textContent = widths ? `Widths of ${text}.` : "";
    back.hidden = !widths;
    draw();
  }

  draw();
  const scroller = el("div", { class: "scroll graph", tabindex: "0", role: "region", "aria-label": "Units as a graph" }, picture);
  const tools = el("div", { class: "tools" }, fit, back, said);
  return { node: el("div", {}, tools, scroller), show };
}
