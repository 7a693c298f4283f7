// One tooltip for the whole page: a heading and lines of [what, value].
const tip = (() => {
  const box = el("div", { id: "tip", role: "tooltip", hidden: true });
  let of = null;

  function show(anchor, heading, lines) {
    of = anchor;
    box.replaceChildren(
      el("strong", {}, heading),
      el("dl", {}, ...lines.flatMap(([what, value]) => [el("dt", {}, what), el("dd", {}, value)])),
    );
    box.hidden = false;
    place(anchor);
  }

  function place(anchor) {
    const at = anchor.getBoundingClientRect();
    const own = box.getBoundingClientRect();
    const room = { x: document.documentElement.clientWidth, y: window.innerHeight };
    const left = Math.max(8, Math.min(at.left + at.width / 2 - own.width / 2, room.x - own.width - 8));
    const below = at.bottom + 10;
    const top = below + own.height < room.y ? below : Math.max(8, at.top - own.height - 10);
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${top + window.scrollY}px`;
  }

  function hide() {
    box.hidden = true;
  }

  // The tooltip of an element, by mouse and by keyboard.
  function on(anchor, content, onEnter = () => {}, onLeave = () => {}) {
    const enter = () => {
      onEnter();
      show(anchor, ...content());
    };
    const leave = () => {
      onLeave();
      hide();
    };
    for (const name of ["pointerenter", "focus"]) anchor.addEventListener(name, enter);
    for (const name of ["pointerleave", "blur"]) anchor.addEventListener(name, leave);
    anchor.setAttribute("aria-describedby", "tip");
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  // What the keyboard is on may have been scrolled into sight by that.
  const follow = () => (of === document.activeElement && of.matches(":focus-visible") ? place(of) : hide());
  document.addEventListener("scroll", () => box.hidden || follow(), true);
  return { box, on, hide };
})();
