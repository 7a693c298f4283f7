// A search's candidates: what they are worth against what they cost.
function makeFront(search, onPick) {
  const WIDTH = 760;
  const HEIGHT = 380;
  const EDGE = { left: 64, right: 20, top: 16, bottom: 48 };
  const known = (kind) => [...new Set(search.candidates.flatMap((candidate) => Object.keys(candidate[kind])))];
  const score = (place) => part(search.candidates[place].metrics, state.y);
  const cost = (place) => part(search.candidates[place].resources, state.x);
  const resources = known("resources");
  const metrics = [search.metric, ...known("metrics").filter((name) => name !== search.metric)];
  const holder = el("div", { class: "scroll plot" });
  const state = { x: search.objectives[0] || Object.keys(search.limits)[0] || resources[0], y: search.metric, chosen: null };
  let points = [];

  const choose = (id, label, names, now, set) =>
    el(
      "label",
      {},
      `${label} `,
      el(
        "select",
        { id, change: (event) => { set(event.target.value); draw(); } },
        ...names.map((name) => el("option", { value: name, selected: name === now }, nameOf(name))),
      ),
    );

  const xs = choose("front-x", "Against", resources, state.x, (name) => { state.x = name; });
  const ys = choose("front-y", "Show", metrics, state.y, (name) => { state.y = name; });

  const within = (place) =>
    Object.entries(search.limits).every(([name, most]) => !(part(search.candidates[place].resources, name) > most * (1 + 1e-9)));

  // Candidates that nothing cheaper equals: from left to right each is better than all before it. Of another metric than
  // the search's it isn't known which way is better.
  function frontOf(places) {
    if (state.y !== search.metric) return [];
    const value = (place) => score(place) * (search.mode === "min" ? -1 : 1);
    const order = places.filter(within).sort((a, b) => cost(a) - cost(b) || value(b) - value(a) || a - b);
    const front = [];
    for (const place of order) {
      if (!front.length || value(place) > value(front[front.length - 1])) front.push(place);
    }
    return front;
  }

  function shown() {
    return search.candidates
      .map((_, place) => place)
      .filter((place) => isNumber(score(place)) && isNumber(cost(place)));
  }

  function draw() {
    tip.hide();
    const places = shown();
    const front = frontOf(places);
    if (!places.length) {
      holder.replaceChildren(el("p", {}, "No candidate has both numbers."));
      return;
    }
    const x = scale(places.map(cost), EDGE.left, WIDTH - EDGE.right);
    const y = scale(places.map(score), HEIGHT - EDGE.bottom, EDGE.top);
    const at = (place) => [x.at(cost(place)), y.at(score(place))];
    const onFront = new Set(front);
    const order = [...places].sort((a, b) => at(a)[0] - at(b)[0] || a - b);
    points = order.map((place) => pointOf(place, at(place), onFront.has(place)));
    const steps = front.map((place, number) => {
      const [px, py] = at(place);
      return number ? `H${px}V${py}` : `M${px} ${py}`;
    });
    const picture = svg(
      "svg",
      { id: "front", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `${nameOf(state.y)} against ${nameOf(state.x)}` },
      ...axes(x, y),
      limitLine(x),
      svg("path", { class: "front-line", d: steps.join("") }),
      ...points.filter(({ place }) => !onFront.has(place)).map(({ node }) => node),
      ...points.filter(({ place }) => onFront.has(place)).map(({ node }) => node),
    );
    holder.replaceChildren(picture);
    roving(points.map(({ node }) => node), (number) => onPick(points[number].place));
    mark(state.chosen);
  }

  function pointOf(place, [cx, cy], isFront) {
    const kind = `point${isFront ? " on-front" : ""}${within(place) ? "" : " over"}${place === search.best ? " best" : ""}`;
    const label = `Candidate ${place}: ${state.y} ${plain(score(place))}, ${amount(cost(place))} ${nameOf(state.x)}`;
    const node = svg("circle", { class: kind, cx, cy, r: isFront ? 5.5 : 4, role: "button", "aria-label": label, "data-candidate": place });
    node.addEventListener("click", () => onPick(place));
    tip.on(node, () => [title(place), aboutCandidate(search, place)]);
    return { node, place };
  }

  const title = (place) => `Candidate ${place}${place === search.best ? ", the best" : ""}`;

  function axes(x, y) {
    const parts = [];
    for (const tick of x.ticks) {
      const px = x.at(tick);
      parts.push(svg("line", { class: "grid", x1: px, x2: px, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
      parts.push(svg("text", { class: "tick", x: px, y: HEIGHT - EDGE.bottom + 18, "text-anchor": "middle" }, amount(tick)));
    }
    for (const tick of y.ticks) {
      const py = y.at(tick);
      parts.push(svg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: py, y2: py }));
      parts.push(svg("text", { class: "tick", x: EDGE.left - 8, y: py + 4, "text-anchor": "end" }, plain(tick)));
    }
    const middle = (EDGE.top + HEIGHT - EDGE.bottom) / 2;
    parts.push(svg("text", { class: "axis", x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, nameOf(state.x)));
    parts.push(svg("text", { class: "axis", transform: `translate(14 ${middle}) rotate(-90)`, "text-anchor": "middle" }, short(state.y, 40)));
    return parts;
  }

  function limitLine(x) {
    const most = part(search.limits, state.x);
    if (!isNumber(most) || x.at(most) < EDGE.left || x.at(most) > WIDTH - EDGE.right) return null;
    return svg(
      "g",
      { class: "limit" },
      svg("line", { x1: x.at(most), x2: x.at(most), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      svg("text", { x: x.at(most) - 6, y: HEIGHT - EDGE.bottom - 8, "text-anchor": "end" }, "limit"),
    );
  }

  function mark(place) {
    state.chosen = place;
    for (const point of points) point.node.classList.toggle("chosen", point.place === place);
  }

  draw();
  const over = search.candidates.every((_, place) => within(place)) ? [] : [["key over", "over a limit"]];
  const legend = el("p", { class: "legend" },
    ...[["key on-front", "best for what it costs"], ["key best", "best of the search"], ["key", "other candidates"], ...over].map(
      ([kind, text]) => el("span", {}, el("span", { class: kind }), text),
    ));
  const tools = el("div", { class: "tools" }, metrics.length > 1 ? ys : null, resources.length > 1 ? xs : null);
  return { node: el("div", {}, tools, holder, legend), mark };
}

function aboutCandidate(search, place) {
  const candidate = search.candidates[place];
  const lines = Object.entries(candidate.metrics).map(([name, value]) => [name, plain(value)]);
  lines.push(...Object.entries(candidate.resources).map(([name, value]) => [nameOf(name), amount(value)]));
  const widths = search.units.map((unit, number) => `${unit.replace(/_\(\d+, \d+\)_\d+$/, "")} ${candidate.widths[number]}`);
  lines.push(["generation", String(candidate.generation)], ["widths", listed(widths, 8)]);
  return lines;
}

// A linear scale with round ticks and some room at both ends.
function scale(values, from, to) {
  let [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  [low, high] = [low - room, high + room];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let number = Math.ceil(low / step); number * step <= high; number += 1) ticks.push(number * step);
  return { ticks, at: (value) => Math.round((from + ((value - low) / (high - low)) * (to - from)) * 10) / 10 };
}
