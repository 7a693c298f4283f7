// The tables of a report, each from its part of the data.

function moduleTable(data) {
  const names = Object.keys(data.totals).filter((name) => name !== "flops" && data.modules.some((module) => module[name]));
  const columns = [
    { title: "module", value: (module) => module.name || "the model" },
    { title: "type", value: (module) => module.type },
  ];
  for (const name of names) {
    const total = data.totals[name][1];
    const own = (module, when) => (module[name] ? module[name][when] : null);
    columns.push(
      { title: `${headOf(name)} before`, hint: `${nameOf(name)} at full width`, number: true, value: (module) => own(module, 0), text: (module) => amount(own(module, 0)) },
      { title: "now", hint: `${nameOf(name)} now`, number: true, value: (module) => own(module, 1), text: (module) => amount(own(module, 1)) },
      {
        title: "share",
        hint: `of all ${nameOf(name)} now`,
        number: true,
        value: (module) => (module[name] && total ? own(module, 1) / total : null),
        text: (module) => (module[name] && total ? share(own(module, 1) / total) : "–"),
        part: (module) => (module[name] && total ? own(module, 1) / total : null),
      },
    );
  }
  return makeTable("modules", "What each module costs at full width and now", columns, data.modules);
}

function unitTable(data, onPick) {
  const names = Object.keys(data.totals).filter((name) => name !== "flops");
  const saved = (unit, name) => (unit.saved ? unit.saved[name] : null);
  const columns = [
    { title: "unit", value: (unit) => unit.name },
    {
      title: "now",
      hint: "active channels",
      number: true,
      value: (unit) => unit.active,
      part: (unit) => unit.active / unit.channels,
    },
    { title: "of", hint: "channels at full width", number: true, value: (unit) => unit.channels },
    { title: "may be", value: (unit) => (unit.mutable ? unit.widths : "fixed") },
    { title: "share", hint: "share of the parameters that hold its channels", number: true, value: (unit) => unit.params, text: (unit) => share(unit.params) },
    ...names.map((name) => ({
      title: `${headOf(name)} saved`,
      hint: `${nameOf(name)} saved by its width now, the others as they are`,
      number: true,
      value: (unit) => saved(unit, name),
      text: (unit) => amount(saved(unit, name)),
    })),
    { title: "kept channels", value: (unit) => unit.kept, text: (unit) => unit.kept || (unit.active < unit.channels ? "the first ones" : "all") },
  ];
  return makeTable("units", "Each unit: its width, what it may be, and what its width saves", columns, data.units, {
    key: (unit) => unit.name,
    onPick,
  });
}

function attentionTable(data) {
  const titles = ["attention", "heads now", "of", "size of each now", "of"];
  const columns = titles.map((title, place) => ({
    title,
    number: place > 0,
    value: (row) => (place ? row[place] : row[0] || "the model"),
  }));
  return data.attentions.length ? makeTable("attentions", "Heads of each attention, and their size", columns, data.attentions) : null;
}

function fixedTable(data) {
  const rows = data.units.filter((unit) => !unit.mutable).map((unit) => ({ ...unit, kind: "unit" }));
  for (const [name, params, reason] of data.unassigned) rows.push({ name, params, reason, place: "", kind: "parameter" });
  const columns = [
    { title: "what", value: (row) => row.name },
    { title: "why it can't change", value: (row) => row.reason },
    { title: "where", value: (row) => row.place || null },
    { title: "kind", value: (row) => row.kind },
    { title: "parameters", number: true, value: (row) => row.params, text: (row) => share(row.params) },
  ];
  return rows.length ? makeTable("fixed", "What can't change, and why", columns, rows) : null;
}

function candidateTable(search, onPick) {
  const rows = search.candidates.map((candidate, place) => ({ ...candidate, place }));
  const known = (kind) => [...new Set(rows.flatMap((row) => Object.keys(row[kind])))];
  const front = new Set(search.front);
  const columns = [
    { title: "candidate", number: true, value: (row) => row.place },
    { title: "generation", number: true, value: (row) => row.generation },
    ...known("metrics").map((name) => ({
      title: name,
      number: true,
      value: (row) => part(row.metrics, name),
      text: (row) => plain(part(row.metrics, name)),
    })),
    ...known("resources").map((name) => ({
      title: nameOf(name),
      number: true,
      value: (row) => part(row.resources, name),
      text: (row) => amount(part(row.resources, name)),
    })),
    { title: "note", value: (row) => (row.place === search.best ? "best" : front.has(row.place) ? "on the front" : null) },
  ];
  return makeTable("candidates", "Every candidate of the search", columns, rows, {
    key: (row) => row.place,
    onPick: (row) => onPick(row.place),
  });
}
