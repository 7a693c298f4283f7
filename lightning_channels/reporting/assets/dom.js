"use strict";

// Everything is made of elements and text: nothing in the data is ever read as HTML.

function make(create, tag, attributes, children) {
  const node = create(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (tag, attributes, ...children) => make((name) => document.createElement(name), tag, attributes, children);
const svg = (tag, attributes, ...children) =>
  make((name) => document.createElementNS("http://www.w3.org/2000/svg", name), tag, attributes, children);

function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);
}

// One element of a group is in the order of Tab, arrow keys go on to the others.
function roving(elements, onMove) {
  elements.forEach((element, place) => {
    element.setAttribute("tabindex", place === 0 ? "0" : "-1");
    element.addEventListener("focus", () => {
      elements.forEach((other) => other.setAttribute("tabindex", other === element ? "0" : "-1"));
    });
    element.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
      if (step) {
        event.preventDefault();
        elements[Math.min(elements.length - 1, Math.max(0, place + step))].focus();
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        onMove(place);
      }
    });
  });
}
