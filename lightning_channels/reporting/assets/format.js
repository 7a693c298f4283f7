const RESOURCES = {
  macs: "MACs",
  flops: "FLOPs",
  params: "parameters",
  activations: "bytes made",
  latency_ms: "latency in ms",
};

const nameOf = (resource) => RESOURCES[resource] || resource;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// 4133000000 → "4.13 G"
function amount(value) {
  if (!isNumber(value)) return "–";
  const units = ["", " K", " M", " G", " T", " P"];
  let place = 0;
  let rest = Math.abs(value);
  while (rest >= 999.5 && place < units.length - 1) {
    rest /= 1000;
    place += 1;
  }
  const digits = place || !Number.isInteger(rest) ? Number(rest.toPrecision(3)) : rest;
  return `${value < 0 ? "−" : ""}${digits}${units[place]}`;
}

// What is not all never reads 100 %, and what is something never reads 0 %.
function share(value) {
  if (!isNumber(value)) return "–";
  const percent = value * 100;
  if (percent > 0 && percent < 0.05) return "<0.1 %";
  return `${(percent < 100 ? Math.min(percent, 99.9) : percent).toFixed(1)} %`;
}

const plain = (value) => (isNumber(value) ? String(Number(value.toPrecision(6))) : "–");

// Long dotted names lose their middle: the module's own name says the most.
function short(name, most) {
  if (name.length <= most) return name;
  const tail = Math.ceil((most - 1) * 0.7);
  return `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}`;
}

function listed(names, most = 6) {
  const shown = names.slice(0, most).join(", ") || "–";
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}
