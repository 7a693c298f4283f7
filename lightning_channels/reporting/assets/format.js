// name → what it is called, in text and at the head of a narrow column
const RESOURCES = new Map([
  ["macs", ["MACs", "MACs"]],
  ["flops", ["FLOPs", "FLOPs"]],
  ["params", ["parameters", "params"]],
  ["activations", ["activations", "activ."]],
  ["latency_ms", ["latency in ms", "ms"]],
]);

const nameOf = (resource) => (RESOURCES.get(resource) || [resource])[0];
const headOf = (resource) => (RESOURCES.get(resource) || [resource, resource])[1];
const part = (numbers, name) => (Object.hasOwn(numbers, name) ? numbers[name] : null);
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

// Long dotted names lose their beginning: the module's own name says the most.
const short = (name, most) => (name.length <= most ? name : `…${name.slice(1 - most)}`);

// What all names begin with, in whole parts.
function commonStart(names) {
  const [first = "", ...rest] = names.map((name) => name.split(".").slice(0, -1));
  let length = 0;
  while (length < first.length && rest.every((parts) => parts[length] === first[length])) length += 1;
  return length ? first.slice(0, length).join(".").length + 1 : 0;
}

function listed(names, most = 6) {
  const shown = names.slice(0, most).join(", ") || "–";
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}
