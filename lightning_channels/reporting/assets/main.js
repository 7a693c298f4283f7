(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const units = unitTable(data, null);
  const attention = attentionTable(data);
  const graph = makeGraph(data, (place) => chooseRow(units, place));
  const parts = [header(data)];
  if (data.search) parts.push(searchSection(data.search));
  parts.push(
    section(
      "graph-section",
      "Units",
      el("p", {}, "Each box is a unit: channels that can only change together. Its bar shows how many are active. An arrow is a module that reads one unit and writes another; dashed ones lead back, to a unit that several modules write."),
      graph.node,
    ),
    section("units-section", "Widths", units.node),
    ...(attention ? [section("attention-section", "Attention", attention.node)] : []),
    section("modules-section", "Resources by module", el("p", {}, "For one sample of the example input, without the modules inside each."), moduleTable(data).node),
    section("fixed-section", "What can't change", ...fixedParts(data)),
  );
  document.body.append(el("main", {}, ...parts), footer(data), tip.box);

  function searchSection(search) {
    const table = candidateTable(search, pick);
    const front = makeFront(search, pick);
    function pick(place) {
      chooseRow(table, place);
      front.mark(place);
      const widths = search.candidates[place].widths;
      graph.show(new Map(search.units.map((unit, number) => [unit, widths[number]])), `candidate ${place}`);
    }
    return section("search-section", "Search", el("p", {}, aboutSearch(search)), front.node, table.node);
  }

  function aboutSearch(search) {
    const goal = search.mode === "min" ? "least" : "most";
    const limits = Object.entries(search.limits).map(([name, value]) => `${amount(value)} ${nameOf(name)}`);
    const within = limits.length ? ` within ${limits.join(", ")}` : "";
    return `${search.candidates.length} candidates by ${search.algorithm}, seed ${search.seed}, for the ${goal} ${search.metric}${within}. Choose one to see its widths in the graph below.`;
  }

  function header(report) {
    const mutable = report.units.filter((unit) => unit.mutable).length;
    const unit = (name) => (name === "activations" ? ", in bytes" : "");
    const tiles = Object.entries(report.totals)
      .filter(([name]) => name !== "flops")
      .map(([name, [before, now]]) => {
        const text = before === now ? amount(before) : `${amount(before)} → ${amount(now)}`;
        return tile(nameOf(name), text, before && before !== now ? `${share(now / before)} left${unit(name)}` : `full width${unit(name)}`);
      });
    tiles.push(tile("units", `${mutable} of ${report.units.length}`, "can change"));
    tiles.push(tile("prunable", share(report.covered), "of the parameters"));
    return el(
      "header",
      {},
      el("h1", {}, report.title),
      el("p", { class: "lead" }, `${report.model}: ${report.proof}`),
      el("dl", { class: "tiles" }, ...tiles),
    );
  }

  function tile(what, value, note) {
    return el("div", { class: "tile" }, el("dt", {}, what), el("dd", {}, el("b", {}, value), el("small", {}, note)));
  }

  function fixedParts(report) {
    const found = fixedTable(report);
    const found_ops = report.unruled.map(([where, kept]) => el("li", {}, `${where}: keeps ${listed(kept)}`));
    return [
      found ? found.node : el("p", {}, "Everything can."),
      found_ops.length ? el("h3", {}, "Operators without a rule") : null,
      found_ops.length ? el("ul", {}, ...found_ops) : null,
    ];
  }

  function footer(report) {
    const versions = Object.entries(report.versions).map(([name, version]) => `${name} ${version}`);
    return el("footer", {}, versions.join(" · "));
  }
})();
