// The browser's part of MaskEditor (editor.py): drawing, undo and the view. Python receives a mask when a stroke is done.
// What the tools do to a mask is in mask_operations.js, which comes before this file.

// --- the document: what all views of one widget share ------------------------------------------------------------------

const UNDO_STEPS = 200;
const UNDO_BYTES = 64e6; // that large masks may take

class Document {
  constructor(model) {
    this.model = model;
    [this.h, this.w] = model.get("_size");
    this.views = new Set();
    this.past = [];
    this.future = [];
    this.busy = false; // a stroke is being drawn into `data`
    const { size, runs: pairs, segments } = model.get("_segments");
    const cells = new Int32Array(size[0] * size[1]);
    const numbers = pairs.split(" ");
    for (let i = 0, at = 0; i < numbers.length; i += 2) cells.fill(+numbers[i], at, (at += +numbers[i + 1]));
    // The segments of smart select, the smallest ones first.
    this.segments = segments.map((joined) => ({
      w: size[1],
      h: size[0],
      data: cells.map((cell) => joined[cell]),
    }));
    this.load();
    model.on("change:_mask", () => this.receive());
    model.on("change:_heat_png", () => this.loadHeat());
    model.on("change:opacity", () => this.notify());
    this.image = new Image();
    this.image.src = "data:image/png;base64," + model.get("_image_png");
    this.ready = this.image.decode();
    this.loadHeat();
  }

  // Take the heat map that is laid over the image, if there is one.
  async loadHeat() {
    const png = this.model.get("_heat_png");
    const heat = png ? new Image() : null;
    if (heat) heat.src = "data:image/png;base64," + png;
    await heat?.decode();
    if (png !== this.model.get("_heat_png")) return; // another one has come meanwhile
    this.heat = heat;
    this.views.forEach((view) => view.scale && view.drawImage());
  }

  get mask() {
    return { w: this.w, h: this.h, data: this.data };
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  // Set the bits of the mask; `back` says whether that is a step of undo (true) or redo (false).
  put(bits, back) {
    this.back = back;
    this.set("_mask", bits);
  }

  get undoSteps() {
    return Math.max(1, Math.min(UNDO_STEPS, Math.floor(UNDO_BYTES / this.bits.byteLength)));
  }

  // Take the mask from the model's bits.
  load() {
    this.bits = this.model.get("_mask");
    this.data = unpack(this.bits, this.w * this.h);
    this.count = this.data.reduce((sum, value) => sum + value, 0);
  }

  // A change of the mask: ours, or Python's.
  receive() {
    const old = this.bits;
    const back = this.back;
    this.back = undefined;
    this.bits = this.model.get("_mask");
    if (areEqual(old, this.bits)) return;
    if (back === true) {
      this.future.push(old);
      this.past.pop();
    } else if (back === false) {
      this.past.push(old);
      this.future.pop();
    } else {
      this.past = [...this.past, old].slice(-this.undoSteps);
      this.future = [];
    }
    if (!this.busy) this.load();
    this.notify();
  }

  // Send what was drawn; as one step it can be undone.
  commit() {
    this.busy = false;
    this.put(pack(this.data));
    this.notify();
  }

  cancel() {
    if (this.busy) this.load();
    this.busy = false;
    this.notify();
  }

  step(back) {
    const steps = back ? this.past : this.future;
    if (steps.length) this.put(steps.at(-1), back);
  }

  notify() {
    this.views.forEach((view) => view.update());
  }
}

// --- the view --------------------------------------------------------------------------------------------------------------

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

// What is painted over the image: red, green, blue and opacity in one number, as ImageData has them.
const rgba = (r, g, b, a) => ((Math.round(255 * a) << 24) | (b << 16) | (g << 8) | r) >>> 0;
const COLOURS = {
  line: rgba(120, 0, 75, 1),
  rim: rgba(255, 255, 255, 0.9),
  mesh: rgba(255, 255, 255, 0.45),
  glow: rgba(255, 255, 255, 0.3),
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
    [["+", "−", "0"], "zoom in, out, fit; or Ctrl+wheel"],
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
    [["1", "2", "0"], "right before, right after, neither"],
  ],
];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  // Lab asks the element that has the focus; without this "m" would turn the cell into text and lose the drawing.
  if (["button", "input", "select", "canvas"].includes(tag)) element.dataset.lmSuppressShortcuts = "true";
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

const NEAR = 40; // screen pixels; a drag that begins so close to the image draws where it enters it

class View {
  constructor(doc, el) {
    this.doc = doc;
    this.tool = "brush";
    this.hidden = this.space = false;
    this.coarseness = 1; // of smart select: the place of its segments among those of the document
    this.radius = Math.max(1, Math.round(Math.max(doc.w, doc.h) / 50));
    this.step = Math.max(1, Math.round(Math.max(doc.w, doc.h) / 512)); // pixels to grow or shrink by
    this.cursor = [doc.w >> 1, doc.h >> 1];
    this.build(el);
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(this.stage);
    this.approach = this.approach.bind(this);
    for (const type of ["pointerdown", "pointermove"]) document.addEventListener(type, this.approach);
    doc.views.add(this);
    this.choose("brush");
    doc.ready.then(() => this.resize(true));
  }

  dispose() {
    this.resizing.disconnect();
    for (const type of ["pointerdown", "pointermove"]) document.removeEventListener(type, this.approach);
    this.doc.views.delete(this);
    cancelAnimationFrame(this.frame);
  }

  // --- controls ---

  button(label, key, path, action, attributes = {}) {
    const title = key ? `${label} (${key})` : label;
    return make(
      "button",
      { type: "button", title, "aria-label": label, onclick: action, ...attributes },
      icon(path),
    );
  }

  range(label, min, max, value, action) {
    const output = make("output");
    const input = make("input", { type: "range", min, max, value, "aria-label": label, title: label });
    input.addEventListener("input", () => action(+input.value));
    const whole = make("label", { class: "et-range" }, make("span", {}, label), input, output);
    return Object.assign(whole, { show: (number, text) => ([input.value, output.value] = [number, text]) });
  }

  build(el) {
    const { doc } = this;
    const edit = (change) => () => this.edit(change);
    this.tools = Object.entries(TOOLS).map(([name, [label, key, , path]]) =>
      this.button(label, key, path, () => this.choose(name), { "data-tool": name }),
    );
    this.size = this.range("Size", 0, this.largestRadius, this.radius, (value) => this.setSize(value));
    this.undo = this.button("Undo", "Ctrl+Z", ICONS.undo, () => this.history(true));
    this.redo = this.button("Redo", "Ctrl+Shift+Z", ICONS.redo, () => this.history(false));
    this.opacity = this.range("Opacity", 0, 100, 45, (value) => doc.set("opacity", value / 100));
    this.enlargeButton = this.button("Enlarge", "F", ICONS.enlarge, () => this.enlarge(), {
      "aria-pressed": "false",
    });
    this.helpButton = this.button("Shortcuts", "?", ICONS.help, () => {}, { "aria-expanded": "false" });
    const toolbar = make(
      "div",
      { class: "et-toolbar", role: "toolbar", "aria-label": "Mask tools" },
      group("Tools", ...this.tools),
      group("Undo and redo", this.undo, this.redo),
      group(
        "Change the mask",
        this.button(
          `Grow by ${this.step} px`,
          "G",
          ICONS.grow,
          edit((mask) => grow(mask, this.step)),
          { "data-action": "grow" },
        ),
        this.button(
          `Shrink by ${this.step} px`,
          "Shift+G",
          ICONS.shrink,
          edit((mask) => shrink(mask, this.step)),
          { "data-action": "shrink" },
        ),
        this.button("Invert", "I", ICONS.invert, edit(invert), { "data-action": "invert" }),
        this.button(
          "Clear",
          "Delete",
          ICONS.clear,
          edit((mask) => mask.data.fill(0)),
          { "data-action": "clear" },
        ),
      ),
      group("Help", this.enlargeButton, this.helpButton),
      this.size,
      this.opacity,
    );
    this.layers = ["image", "mask", "marks"].map((name) => make("canvas", { class: `et-${name}` }));
    [this.base, this.over, this.top] = this.layers;
    for (const [name, value] of Object.entries({
      tabindex: 0,
      role: "application",
      "aria-label": `Drawing area, ${doc.w} by ${doc.h} pixels`,
    }))
      this.top.setAttribute(name, value);
    this.stage = make("div", { class: "et-stage" }, ...this.layers);
    this.stage.style.aspectRatio = `${doc.w} / ${doc.h}`;
    this.status = make("span", { class: "et-count", role: "status" });
    this.place = make("span", { class: "et-place" });
    this.hint = make("div", { class: "et-hint" });
    const keys = (names) => names.map((name) => make("kbd", {}, name));
    const shortcuts = SHORTCUTS.map(([title, ...rows]) =>
      make(
        "section",
        {},
        make("b", {}, title),
        make("dl", {}, ...rows.map(([names, what]) => make("div", {}, make("dt", {}, ...keys(names)), make("dd", {}, what)))),
      ),
    );
    const closeHelp = this.button("Close", "Esc", ICONS.close, () => this.help.hidePopover());
    // A popover is above everything else, whatever is scrolled or cut off; a click elsewhere closes it.
    this.help = make(
      "div",
      { class: "et-help", popover: "auto", "aria-label": "Shortcuts", ontoggle: () => this.placeHelp() },
      make("div", { class: "et-help-title" }, make("b", {}, "Shortcuts"), closeHelp),
      ...shortcuts,
    );
    this.helpButton.popoverTargetElement = this.help;
    this.root = make(
      "div",
      { class: "et-editor", "data-jp-suppress-context-menu": "" },
      toolbar,
      this.stage,
      make("div", { class: "et-status" }, this.status, this.place),
      this.hint,
      this.help,
    );
    const listen = (target, handlers) =>
      Object.entries(handlers).forEach(([type, handler]) =>
        target.addEventListener(type, handler.bind(this), { passive: false }),
      );
    listen(this.root, { keydown: this.keydown, keyup: this.keyup });
    listen(this.top, {
      pointerdown: this.pointerdown,
      pointermove: this.pointermove,
      pointerup: this.pointerup,
      wheel: this.wheel,
      pointercancel() {
        this.panning = null;
        this.cancel();
      },
      pointerleave() {
        this.hover = null;
        this.drawMarks();
      },
      contextmenu: (e) => e.preventDefault(),
      focus: this.drawMarks,
      blur() {
        this.space = false;
        this.hide(false);
        this.drawMarks();
      },
    });
    this.el = el;
    el.append(this.root);
  }

  choose(name) {
    this.cancel();
    this.tool = name;
    this.tools.forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === name));
    this.size.hidden = !["brush", "eraser", "smart"].includes(name);
    this.hint.replaceChildren(
      make("b", {}, TOOLS[name][0]),
      ` ${TOOLS[name][2]} `,
      make("kbd", {}, "?"),
      " for all shortcuts.",
    );
    this.setSize(name === "smart" ? this.coarseness : this.radius);
    this.update();
  }

  get largestRadius() {
    return Math.max(20, Math.ceil(Math.max(this.doc.w, this.doc.h) / 8));
  }

  get segments() {
    return this.doc.segments[this.coarseness];
  }

  // Set the radius of the brush, or how coarse the segments of smart select are.
  setSize(size) {
    const smart = this.tool === "smart";
    const largest = smart ? this.doc.segments.length - 1 : this.largestRadius;
    const value = Math.max(0, Math.min(largest, size));
    if (smart) this.coarseness = value;
    else this.radius = value;
    this.size.querySelector("input").max = largest;
    this.size.show(value, smart ? `${value + 1} of ${largest + 1}` : `${2 * value + 1} px`);
    this.paint();
    this.drawMarks();
  }

  // Change the size by some steps.
  resizeTool(steps) {
    if (this.tool === "smart") this.setSize(this.coarseness + steps);
    else this.setSize(this.radius + steps * Math.max(1, Math.round(this.radius / 10)));
  }

  get isEnlarged() {
    return this.root.hasAttribute("popover");
  }

  // Show the editor above everything else, as large as the window, or back in its place; Esc goes back as well.
  enlarge() {
    if (this.isEnlarged) {
      this.root.hidePopover();
      this.root.removeAttribute("popover");
      this.el.style.minHeight = "";
    } else {
      this.el.style.minHeight = `${this.root.offsetHeight}px`; // what is below stays in its place
      this.root.setAttribute("popover", "manual");
      this.root.showPopover();
    }
    this.enlargeButton.setAttribute("aria-pressed", this.isEnlarged);
    this.top.focus({ preventScroll: true });
  }

  // Put the shortcuts, if they are shown, over the middle of the editor, inside of the window.
  placeHelp() {
    this.helpButton.setAttribute("aria-expanded", this.helpShown);
    if (!this.helpShown) return;
    const editor = this.root.getBoundingClientRect();
    const own = this.help.getBoundingClientRect();
    const inside = (start, length, whole) => Math.max(8, Math.min(whole - length - 8, start));
    this.help.style.left = `${inside(editor.left + (editor.width - own.width) / 2, own.width, window.innerWidth)}px`;
    this.help.style.top = `${inside(editor.top + (editor.height - own.height) / 2, own.height, window.innerHeight)}px`;
  }

  get helpShown() {
    return this.help.matches(":popover-open");
  }

  hide(hidden) {
    if (hidden === this.hidden) return;
    this.hidden = hidden;
    this.paint();
  }

  // Undo or redo: in an open polygon its last corner, otherwise the last change of the mask.
  history(back) {
    const { gesture } = this;
    if (gesture?.tool !== "polygon") {
      this.cancel();
      return this.doc.step(back);
    }
    const [from, to] = back ? [gesture.points, gesture.removed] : [gesture.removed, gesture.points];
    if (from.length) to.push(from.pop());
    if (!gesture.points.length) this.cancel();
    this.update(this.gesture && this.polygonHint);
  }

  edit(change) {
    this.cancel();
    change(this.doc.mask);
    this.doc.commit();
  }

  // Show the state of the document.
  update(message) {
    const { doc } = this;
    const share = (100 * doc.count) / (doc.w * doc.h);
    this.opacity.show(
      Math.round(100 * doc.model.get("opacity")),
      `${Math.round(100 * doc.model.get("opacity"))}%`,
    );
    const open = this.gesture?.tool === "polygon";
    this.undo.disabled = !open && !doc.past.length;
    this.redo.disabled = open ? !this.gesture.removed.length : !doc.future.length;
    [this.undo.tabIndex, this.redo.tabIndex] = this.undo.disabled ? [-1, 0] : [0, -1];
    this.root.dataset.count = doc.count;
    this.status.textContent =
      message || `${doc.count.toLocaleString("en")} px · ${share.toFixed(share < 1 ? 2 : 1)}% of the image`;
    this.paint();
    this.drawMarks();
  }

  // --- drawing: pointer and keyboard both press, move and release at a pixel ---

  press(pixel, opposite, near) {
    const { doc, tool } = this;
    const v = +((tool !== "eraser") !== opposite);
    if (tool === "polygon" && this.gesture) return this.corner(pixel, near);
    this.cancel();
    this.gesture = { tool, v, points: [pixel], removed: [] };
    if (tool === "polygon") this.update(this.polygonHint);
    else this.draw([pixel, pixel]);
  }

  move(pixel) {
    const { gesture } = this;
    if (!gesture) return;
    const last = gesture.points.at(-1);
    if (last[0] === pixel[0] && last[1] === pixel[1]) return;
    if (gesture.tool === "polygon") return (this.gesture.next = pixel);
    if (gesture.tool in BOXED) gesture.points = [gesture.points[0], pixel];
    else gesture.points.push(pixel);
    this.draw([last, pixel]);
  }

  release() {
    const { gesture, doc } = this;
    if (!gesture || gesture.tool === "polygon") return;
    const { tool, v, points } = gesture;
    const mask = doc.mask;
    this.gesture = null;
    BOXED[tool]?.(mask, points[0], points.at(-1), v);
    if (tool === "lasso") polygon(mask, points, v);
    doc.commit();
  }

  corner(pixel, near) {
    const { gesture } = this;
    const { points } = gesture;
    const close = (corner) => Math.hypot(corner[0] - pixel[0], corner[1] - pixel[1]) <= near;
    if (close(points[0]) || close(points.at(-1))) return this.closePolygon();
    points.push(pixel);
    gesture.removed = [];
    this.update(this.polygonHint);
  }

  get polygonHint() {
    return POLYGON_HINTS[this.keyboard ? "keyboard" : "pointer"];
  }

  // Fill the open polygon; it needs three corners.
  closePolygon() {
    const { gesture, doc } = this;
    if (gesture.points.length < 3) return;
    this.gesture = null;
    polygon(doc.mask, gesture.points, gesture.v);
    doc.commit();
  }

  // The part of a stroke that shows while it is drawn.
  draw(ends) {
    const { doc, gesture } = this;
    const free = gesture.tool === "brush" || gesture.tool === "eraser";
    if (!free && gesture.tool !== "smart") return;
    doc.busy = true;
    if (free) stroke(doc.mask, ends, this.radius, gesture.v);
    else {
      for (const pixel of line(...ends)) {
        const number = this.covers(pixel) ? this.segment(pixel) : -1;
        if (number < 0 || gesture.seen?.has(number)) continue;
        (gesture.seen ??= new Set()).add(number);
        setWhere(doc.mask, this.segments, number, gesture.v);
      }
    }
    doc.views.forEach((view) => view.paint());
  }

  cancel() {
    const busy = this.gesture && this.doc.busy;
    const open = this.gesture?.tool === "polygon";
    this.gesture = null;
    if (busy) this.doc.cancel();
    else if (open) this.update();
    this.drawMarks();
  }

  covers([x, y]) {
    return x >= 0 && y >= 0 && x < this.doc.w && y < this.doc.h;
  }

  segment([x, y]) {
    const { segments } = this;
    const { w, h } = this.doc;
    return segments.data[Math.floor((y * segments.h) / h) * segments.w + Math.floor((x * segments.w) / w)];
  }

  // --- pointer ---

  position(event) {
    const box = this.top.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  pixel(event) {
    const [x, y] = this.position(event);
    return [Math.floor((x - this.left) / this.scale), Math.floor((y - this.upper) / this.scale)];
  }

  // Follow a drag that begins near the image, and not on a control, until it enters the image.
  approach(event) {
    if (event.target === this.top) return;
    const follows = event.type === "pointerdown" ? event.button === 0 && this.isNear(event) : this.outside;
    this.outside = follows && event.buttons === 1 ? this.pixel(event) : null;
  }

  isNear(event) {
    const box = this.top.getBoundingClientRect();
    const [x, y] = this.position(event);
    const beside = (value, size) => value > -NEAR && value < size + NEAR;
    const onControl = event.target.closest("button, input, select, summary, a, [role=option]");
    return !onControl && beside(x, box.width) && beside(y, box.height);
  }

  pointerdown(event, pixel = this.pixel(event)) {
    this.top.focus({ preventScroll: true });
    event.preventDefault();
    if (event.isTrusted) this.top.setPointerCapture(event.pointerId);
    this.keyboard = false;
    this.outside = null;
    this.hover = pixel;
    if (this.covers(this.hover)) this.cursor = this.hover; // the arrow keys go on from here
    if (event.button === 1 || this.space) this.panning = this.position(event);
    else this.press(this.hover, event.altKey || event.button === 2 || event.button === 5, 8 / this.scale);
    this.drawMarks();
  }

  pointermove(event) {
    if (this.outside && event.buttons === 1) {
      getSelection().removeAllRanges(); // of the text on the way
      this.pointerdown(event, this.outside);
    }
    this.hover = this.pixel(event);
    if (this.panning) {
      const to = this.position(event);
      this.moveTo(this.left + to[0] - this.panning[0], this.upper + to[1] - this.panning[1]);
      this.panning = to;
    } else {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) this.move(this.pixel(each));
    }
    if (this.tool === "smart") this.paint();
    this.drawMarks();
  }

  pointerup(event) {
    if (this.panning) this.panning = null;
    else this.release();
    this.drawMarks();
  }

  wheel(event) {
    const turn = event.deltaY || event.deltaX;
    if (event.ctrlKey || event.metaKey)
      this.zoom(Math.exp(-Math.max(-60, Math.min(60, turn)) / 150), this.position(event));
    else if (event.shiftKey) this.resizeTool(-Math.sign(turn));
    else if (this.scale > this.fitting * 1.01 && document.activeElement === this.top)
      this.moveTo(this.left - event.deltaX, this.upper - event.deltaY);
    else return;
    event.preventDefault();
  }

  // --- keyboard ---

  keydown(event) {
    const { key, shiftKey } = event;
    const command = event.ctrlKey || event.metaKey;
    const letter = key.toLowerCase();
    const tool = Object.keys(TOOLS).find((name) => TOOLS[name][1].toLowerCase() === letter);
    const mask = (change) => this.edit(change);
    const anywhere = {
      "[": () => this.resizeTool(-1),
      "]": () => this.resizeTool(1),
      g: () => mask((m) => (shiftKey ? shrink : grow)(m, this.step)),
      i: () => mask(invert),
      delete: () => mask((m) => m.data.fill(0)),
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
      h: () => this.hide(true),
      f: () => this.enlarge(),
      "?": () => this.help.togglePopover(),
    };
    const [w, h] = [this.doc.w, this.doc.h];
    const far = shiftKey ? 10 : 1;
    const page = Math.max(1, Math.round(h / 8));
    const onImage = {
      arrowleft: () => this.go(-far, 0),
      arrowright: () => this.go(far, 0),
      arrowup: () => this.go(0, -far),
      arrowdown: () => this.go(0, far),
      home: () => this.go(-w, 0),
      end: () => this.go(w, 0),
      pageup: () => this.go(0, -page),
      pagedown: () => this.go(0, page),
      enter: () => !event.repeat && this.act(event.altKey),
      escape: () => this.cancel(),
      " ": () => (this.space = true),
    };
    let action;
    if (this.helpShown && key === "Escape") action = () => this.help.hidePopover();
    else if (this.isEnlarged && key === "Escape" && !this.gesture) action = () => this.enlarge();
    else if (this.help.contains(event.target)) action = { "?": anywhere["?"] }[letter];
    else if (command) action = { z: () => this.history(!shiftKey), y: () => this.history(false) }[letter];
    else if (tool && !event.altKey) action = () => this.choose(tool);
    else action = anywhere[letter] ?? (event.target === this.top ? onImage[letter] : undefined);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  keyup(event) {
    if (event.key.toLowerCase() === "h") this.hide(false);
    if (event.key === " ") this.space = false;
  }

  go(dx, dy) {
    this.keyboard = true;
    const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
    this.cursor = this.hover = [
      clamp(this.cursor[0] + dx, this.doc.w),
      clamp(this.cursor[1] + dy, this.doc.h),
    ];
    this.move(this.cursor);
    const [x, y] = this.cursor;
    const { scale, left, upper, width, height } = this;
    const inside = (value, size) => Math.max(20, Math.min(size - 20, value));
    const [sx, sy] = [left + (x + 0.5) * scale, upper + (y + 0.5) * scale];
    if (scale > this.fitting * 1.01)
      this.moveTo(left + inside(sx, width) - sx, upper + inside(sy, height) - sy);
    if (this.tool === "smart") this.paint();
    this.drawMarks();
  }

  // Enter: press or release at the cursor. A polygon whose last corner was clicked is closed as it is.
  act(opposite) {
    if (this.gesture?.tool === "polygon" && !this.keyboard) return this.closePolygon();
    this.keyboard = true;
    this.hover = this.cursor;
    if (this.gesture && this.tool !== "polygon") this.release();
    else {
      this.press(this.cursor, opposite, 0);
      if (this.tool === "smart") this.release();
      else if (this.gesture)
        this.update(this.tool === "polygon" ? this.polygonHint : "Enter again to finish, Esc to cancel.");
    }
    this.drawMarks();
  }

  // --- the visible part: `scale` screen pixels per image pixel, the image's corner at (left, upper) ---

  resize(fit = false) {
    const box = this.stage.getBoundingClientRect();
    const dpr = window.devicePixelRatio || 1;
    if (!box.width || !box.height) return;
    const fitted = fit || !this.scale || Math.abs(this.scale - this.fitting) < 1e-6;
    [this.width, this.height, this.dpr] = [box.width, box.height, dpr];
    for (const canvas of this.layers)
      [canvas.width, canvas.height] = [Math.round(box.width * dpr), Math.round(box.height * dpr)];
    this.fitting = Math.min(box.width / this.doc.w, box.height / this.doc.h);
    if (fitted) this.fit();
    else this.moveTo(this.left, this.upper);
  }

  fit() {
    this.scale = this.fitting;
    this.moveTo(0, 0);
  }

  zoom(factor, [x, y] = [this.width / 2, this.height / 2]) {
    const scale = Math.max(this.fitting, Math.min(Math.max(48, this.fitting), this.scale * factor));
    const by = scale / this.scale;
    this.scale = scale;
    this.moveTo(x - (x - this.left) * by, y - (y - this.upper) * by);
  }

  // Put the image's corner somewhere, but leave no gap where the image could be.
  moveTo(left, upper) {
    const keep = (value, room) => (room >= 0 ? room / 2 : Math.max(room, Math.min(0, value)));
    this.left = keep(left, this.width - this.doc.w * this.scale);
    this.upper = keep(upper, this.height - this.doc.h * this.scale);
    this.stage.dataset.view = [this.scale, this.left, this.upper].join(" ");
    this.drawImage();
    this.paint();
    this.drawMarks();
  }

  drawImage() {
    const context = this.base.getContext("2d");
    const { dpr, scale, doc } = this;
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.imageSmoothingEnabled = (scale * doc.w) / doc.image.naturalWidth < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(doc.image, this.left, this.upper, doc.w * scale, doc.h * scale);
    context.imageSmoothingEnabled = true;
    if (doc.heat) context.drawImage(doc.heat, this.left, this.upper, doc.w * scale, doc.h * scale);
  }

  // Draw the mask again at the next frame.
  paint() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.scale) this.paintNow();
    });
  }

  // Every screen pixel looks up its mask pixel, so the cost is the screen's and the outline is equally thin at any zoom.
  paintNow() {
    const { doc, dpr, over } = this;
    const { data, w, h } = doc;
    const { segments } = this;
    const { width, height } = over;
    const context = over.getContext("2d");
    if (this.hidden) return context.clearRect(0, 0, width, height);
    const image = context.createImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    const opacity = doc.model.get("opacity");
    const fill = rgba(255, 45, 149, opacity);
    // The hatching has a dark and a light stripe, so that it shows without colors too, on any image.
    const dark = rgba(110, 0, 70, Math.min(1, 0.25 + opacity));
    const light = rgba(255, 255, 255, Math.min(1, 0.1 + 0.8 * opacity));
    const spacing = Math.round(16 * dpr);
    const stripe = Math.round(2 * dpr);
    const smart = this.tool === "smart";
    const edge = Math.max(1, Math.round(1.25 * dpr));
    const lit = smart && this.hover && this.covers(this.hover) ? this.segment(this.hover) : -1;
    const look = (X, offset) => Math.floor(((X + 0.5) / dpr - offset) / this.scale);
    const inside = (value, size) => Math.max(0, Math.min(size - 1, value));
    const differs = (grid, at, around) => around.some((place) => grid[place] !== grid[at]);
    const columns = Int32Array.from({ length: width + 2 * edge }, (_, i) => look(i - edge, this.left));
    const near = columns.map((x) => inside(x, w));
    const cells = near.map((x) => Math.floor((x * segments.w) / w));
    for (let Y = 0; Y < height; Y++) {
      const y = look(Y, this.upper);
      if (y < 0 || y >= h) continue;
      const rowAt = (Y) => inside(look(Y, this.upper), h);
      const cellsAt = (y) => Math.floor((y * segments.h) / h) * segments.w;
      const row = y * w;
      const above = rowAt(Y - edge) * w;
      const below = rowAt(Y + edge) * w;
      const cellRow = cellsAt(y);
      const cellBelow = cellsAt(rowAt(Y + 1));
      for (let X = 0, i = edge, o = Y * width; X < width; X++, i++, o++) {
        const x = columns[i];
        if (x < 0 || x >= w) continue;
        const m = data[row + x];
        const cell = segments.data[cellRow + cells[i]];
        const around = [row + near[i - edge], row + near[i + edge], above + x, below + x];
        if (differs(data, row + x, around)) out[o] = m ? COLOURS.line : COLOURS.rim;
        else if (
          smart &&
          (cell !== segments.data[cellRow + cells[i + 1]] || cell !== segments.data[cellBelow + cells[i]])
        )
          out[o] = COLOURS.mesh;
        else if (m) out[o] = [dark, light][Math.floor(((X + Y) % spacing) / stripe)] ?? fill;
        else if (smart && cell === lit) out[o] = COLOURS.glow;
      }
    }
    context.putImageData(image, 0, 0);
  }

  // The brush's ring, the keyboard's cross and the shape that is being drawn, light on dark so that they always show.
  drawMarks() {
    if (!this.scale) return;
    const context = this.top.getContext("2d");
    const { scale, hover, gesture } = this;
    const at = ([x, y]) => [this.left + (x + 0.5) * scale, this.upper + (y + 0.5) * scale];
    context.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.beginPath();
    const sized = ["brush", "eraser"].includes(this.tool);
    const focused = document.activeElement === this.top;
    if (hover && sized) {
      const [x, y] = at(hover);
      const radius = Math.max(2, (this.radius + 0.5) * scale);
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    if (focused && this.keyboard) {
      const [x, y] = at(this.cursor);
      for (const [dx, dy] of [
        [1, 0],
        [-1, 0],
        [0, 1],
        [0, -1],
      ]) {
        context.moveTo(x + 3 * dx, y + 3 * dy);
        context.lineTo(x + 11 * dx, y + 11 * dy);
      }
    }
    if (gesture && !["brush", "eraser", "smart"].includes(gesture.tool)) {
      const points = gesture.tool === "polygon" && hover ? [...gesture.points, hover] : gesture.points;
      const [a, b] = [at(points[0]), at(points.at(-1))];
      if (gesture.tool in BOXED) {
        const half = scale / 2;
        const [x0, x1] = [Math.min(a[0], b[0]) - half, Math.max(a[0], b[0]) + half];
        const [y0, y1] = [Math.min(a[1], b[1]) - half, Math.max(a[1], b[1]) + half];
        if (gesture.tool === "rectangle") context.rect(x0, y0, x1 - x0, y1 - y0);
        else context.ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, 0, 0, 2 * Math.PI);
      } else {
        context.moveTo(...a);
        points.slice(1).forEach((point) => context.lineTo(...at(point)));
        if (gesture.tool === "polygon")
          gesture.points.forEach((point) => context.rect(at(point)[0] - 3, at(point)[1] - 3, 6, 6));
      }
    }
    for (const [style, width] of [
      ["rgba(0, 0, 0, 0.75)", 3],
      ["#fff", 1.25],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
    this.top.style.cursor = this.space || this.panning ? "grab" : sized && hover ? "none" : "crosshair";
    const zoom = `${Math.round(100 * scale)}%`;
    this.place.textContent =
      hover && this.covers(hover)
        ? `x ${hover[0]}, y ${hover[1]} · ${zoom}`
        : `${this.doc.w} × ${this.doc.h} · ${zoom}`;
  }
}

export default () => {
  let doc;
  return {
    initialize({ model }) {
      doc = new Document(model);
    },
    render({ el }) {
      const view = new View(doc, el);
      return () => view.dispose();
    },
  };
};
