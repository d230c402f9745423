// The controls of MaskEditor (editor.py), and what the pointer and the keyboard do.

const NEAR = 40; // screen pixels; a drag that begins so close to the image draws where it enters it

// The middle between the first two of several fingers, and how far these are apart.
function spread(fingers) {
  const [[x0, y0], [x1, y1]] = fingers.values();
  return { middle: [(x0 + x1) / 2, (y0 + y1) / 2], distance: Math.max(1, Math.hypot(x1 - x0, y1 - y0)) };
}

class View extends Stage {
  constructor(doc, el) {
    super(doc);
    this.fingers = new Map(); // the position of each finger on the image
    this.pinching = false; // two fingers were there since all were lifted
    this.step = Math.max(1, Math.round(Math.max(doc.w, doc.h) / 512)); // pixels to grow or shrink by
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

  build(el) {
    const { doc } = this;
    const edit = (change) => () => this.edit(change);
    this.tools = Object.entries(TOOLS).map(([name, [label, key, , path]]) =>
      button(label, key, path, () => this.choose(name), { "data-tool": name }),
    );
    this.size = range("Size", 0, this.largestRadius, this.radius, (value) => this.setSize(value));
    this.undo = button("Undo", "Ctrl+Z", ICONS.undo, () => this.history(true));
    this.redo = button("Redo", "Ctrl+Shift+Z", ICONS.redo, () => this.history(false));
    this.opacity = range("Opacity", 0, 100, 45, (value) => doc.set("opacity", value / 100));
    this.enlargeButton = button("Enlarge", "F", ICONS.enlarge, () => this.enlarge(), {
      "aria-pressed": "false",
    });
    this.helpButton = button("Shortcuts", "?", ICONS.help, () => {}, { "aria-expanded": "false" });
    const toolbar = make(
      "div",
      { class: "et-toolbar", role: "toolbar", "aria-label": "Mask tools" },
      group("Tools", ...this.tools),
      group("Undo and redo", this.undo, this.redo),
      group(
        "Change the mask",
        button(
          `Grow by ${this.step} px`,
          "G",
          ICONS.grow,
          edit((mask) => grow(mask, this.step)),
          { "data-action": "grow" },
        ),
        button(
          `Shrink by ${this.step} px`,
          "Shift+G",
          ICONS.shrink,
          edit((mask) => shrink(mask, this.step)),
          { "data-action": "shrink" },
        ),
        button("Invert", "I", ICONS.invert, edit(invert), { "data-action": "invert" }),
        button(
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
    this.status = make("span", { class: "et-count", role: "status" });
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
    const closeHelp = button("Close", "Esc", ICONS.close, () => this.help.hidePopover());
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
      pointercancel(event) {
        this.pinch(event);
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
    if (gesture.tool === "polygon") return;
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

  // --- pointer ---

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

  // Two fingers move and zoom the image, until both are lifted; what the first of them has drawn is taken back.
  // Return whether the event belongs to that.
  pinch(event) {
    if (event.pointerType !== "touch") return false;
    const { fingers } = this;
    const before = fingers.size > 1 ? spread(fingers) : null;
    if (event.type === "pointerup" || event.type === "pointercancel") fingers.delete(event.pointerId);
    else fingers.set(event.pointerId, this.position(event));
    if (event.type === "pointerdown" && fingers.size === 2) {
      this.pinching = true;
      if (this.gesture?.tool === "polygon") this.history(true);
      else this.cancel();
    }
    if (event.type === "pointermove" && before) {
      const after = spread(fingers);
      this.left += after.middle[0] - before.middle[0];
      this.upper += after.middle[1] - before.middle[1];
      this.zoom(after.distance / before.distance, after.middle);
    }
    const { pinching } = this;
    if (!fingers.size) this.pinching = false;
    return pinching;
  }

  pointerdown(event, pixel = this.pixel(event)) {
    this.top.focus({ preventScroll: true });
    event.preventDefault();
    if (this.pinch(event)) return;
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
    if (this.pinch(event)) return;
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
    if (this.pinch(event)) return;
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
