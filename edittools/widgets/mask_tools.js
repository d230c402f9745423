// The tools, icons, and shortcuts of MaskEditor, and the elements that its controls are made of.

const TOOLS = {
  brush: [
    "Brush",
    "B",
    "Drag to paint.",
    "M9.5 14.5 19 5a2 2 0 0 0-3-3l-9 9.5M9.5 14.5c2 3-.5 6.5-6.5 6 2-1.5 1-3 2-5 1-1.5 3-2 4.5-1z",
  ],
  eraser: ["Eraser", "E", "Drag to erase.", "M8 20h12M5 13 14 4l6 6-9 9H8l-3-3a2 2 0 0 1 0-3zM9.5 8.5l6 6"],
  polygon: [
    "Polygon",
    "P",
    "Click the corners; Enter closes it, Ctrl+Z takes back a corner.",
    "M12 3l9 7-3.5 10h-11L3 10z",
  ],
  lasso: [
    "Lasso",
    "O",
    "Drag around the area.",
    "M7 16c-6-2-5-12 5-12s11 10 3 12c-4 1-6-1-8-1-3 0-3 4 0 4 2 0 2 2 1 3",
  ],
  rectangle: ["Rectangle", "R", "Drag from corner to corner.", "M4 6h16v12H4z"],
  ellipse: [
    "Ellipse",
    "C",
    "Drag from corner to corner of the box around it.",
    "M3 12a9 6.5 0 1 0 18 0a9 6.5 0 1 0-18 0z",
  ],
  smart: [
    "Smart select",
    "S",
    "Click the segments that belong to the mask, or drag over them; larger ones join similar colors.",
    "M14 10 4 20l-1-1 10-10zM17 2v4M15 4h4M20 9v4M18 11h4M9 3v3M7.5 4.5h3",
  ],
};

// The tools that take a box from one corner to the other.
const BOXED = { rectangle, ellipse };

const ICONS = {
  grow: "M9 9h6v6H9zM12 6V2M12 22v-4M6 12H2M22 12h-4M10 4l2-2 2 2M10 20l2 2 2-2M4 10l-2 2 2 2M20 10l2 2-2 2",
  shrink:
    "M10 10h4v4h-4zM12 2v5M12 22v-5M2 12h5M22 12h-5M10 5l2 2 2-2M10 19l2-2 2 2M5 10l2 2-2 2M19 10l-2 2 2 2",
  invert: "M4 4h16v16H4zM4 20 20 4M8 4v8M12 4v4M4.5 8h7.5",
  clear: "M4 4h16v16H4zM9 9l6 6M15 9l-6 6",
  undo: "M8 4 4 8l4 4M4 8h10a6 6 0 0 1 0 12H8",
  redo: "M16 4l4 4-4 4M20 8H10a6 6 0 0 0 0 12h6",
  close: "M6 6l12 12M18 6 6 18",
  enlarge: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  help: "M3 12a9 9 0 1 0 18 0 9 9 0 1 0-18 0M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.4-1 .9-1 1.7M12 16.5v.3",
};

const POLYGON_HINTS = {
  pointer: "Enter closes the polygon, Ctrl+Z takes back a corner.",
  keyboard: "Enter adds a corner, and at the last one closes; Ctrl+Z takes back a corner.",
};

// Groups of shortcuts: a title, and for each shortcut its keys and what it does. The last group is of the desk only.
const SHORTCUTS = [
  ["Tools", ...Object.values(TOOLS).map(([name, key]) => [[key], name])],
  [
    "Draw",
    [["[", "]"], "smaller, larger brush or segments"],
    [["Alt"], "held, or the right button: erase instead"],
    [["Ctrl+Z", "Ctrl+Shift+Z"], "undo, redo"],
    [["Enter", "Esc"], "close a polygon, cancel"],
  ],
  [
    "Draw without a mouse",
    [["←", "→", "↑", "↓"], "move by a pixel, with Shift by 10"],
    [["Home", "End", "Page ↑", "Page ↓"], "move far"],
    [["Enter"], "press there, and release"],
  ],
  ["Whole mask", [["G", "Shift+G"], "grow, shrink"], [["I"], "invert"], [["Delete"], "clear"]],
  [
    "View",
    [["+", "−", "0"], "zoom in, out, fit; or Ctrl+wheel, or two fingers"],
    [["Space"], "held: drag to move the image"],
    [["H"], "held: hide the mask"],
    [["F"], "enlarge the editor"],
    [["?"], "this list"],
  ],
  [
    "Lists of images",
    [["←", "→", "↑", "↓"], "next image"],
    [["Enter"], "enlarge it"],
    [["Space", "Shift+Space"], "check it, check all up to it"],
  ],
];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  // Lab asks the element that has the focus; without this "m" would turn the cell into text and lose the drawing.
  if (["button", "input", "canvas"].includes(tag)) element.dataset.lmSuppressShortcuts = "true";
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children); // a string becomes text, never HTML
  return element;
}

function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  svg.firstChild.setAttribute("d", path);
  return svg;
}

function button(label, key, path, action, attributes = {}) {
  const title = key ? `${label} (${key})` : label;
  return make("button", { type: "button", title, "aria-label": label, onclick: action, ...attributes }, icon(path));
}

// A slider; its method `show` sets its place and the text next to it.
function range(label, min, max, value, action) {
  const output = make("output");
  const input = make("input", { type: "range", min, max, value, "aria-label": label, title: label });
  input.addEventListener("input", () => action(+input.value));
  const whole = make("label", { class: "et-range" }, make("span", {}, label), input, output);
  return Object.assign(whole, { show: (number, text) => ([input.value, output.value] = [number, text]) });
}

// A group of controls that is one stop of the Tab key; arrow keys move inside it.
function group(label, ...children) {
  const buttons = children.filter((child) => child.tagName === "BUTTON");
  buttons.forEach((button, i) => (button.tabIndex = i ? -1 : 0));
  const move = (event) => {
    const open = buttons.filter((button) => !button.disabled);
    const at = open.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at < 0 || !step) return;
    event.preventDefault();
    open[(at + step + open.length) % open.length].focus();
  };
  const stop = ({ target }) => buttons.forEach((button) => (button.tabIndex = button === target ? 0 : -1));
  return make(
    "div",
    { class: "et-group", role: "group", "aria-label": label, onkeydown: move, onfocusin: stop },
    ...children,
  );
}
