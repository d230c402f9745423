// What is seen of a document: the image, the mask over it, and the marks of the pointer and of the open shape on top.

// What is painted over the image: red, green, blue and opacity in one number, as ImageData has them.
const rgba = (r, g, b, a) => ((Math.round(255 * a) << 24) | (b << 16) | (g << 8) | r) >>> 0;
const COLORS = {
  line: rgba(120, 0, 75, 1),
  rim: rgba(255, 255, 255, 0.9),
  mesh: rgba(255, 255, 255, 0.45),
  glow: rgba(255, 255, 255, 0.3),
};

class Stage {
  constructor(doc) {
    this.doc = doc;
    this.tool = "brush";
    this.radius = Math.max(1, Math.round(Math.max(doc.w, doc.h) / 50)); // of the brush
    this.coarseness = 1; // of smart select: the place of its segments among those of the document
    this.gesture = null; // the shape that is being drawn: its tool, its points, and v, 1 to add and 0 to take away
    this.hover = null; // the pixel under the pointer
    this.cursor = [doc.w >> 1, doc.h >> 1]; // the pixel at which the keyboard draws
    this.keyboard = false; // the last step of the drawing was made by a key
    this.panning = null; // where the pointer was that moves the image
    this.space = false; // the space bar is held, with which a drag moves the image
    this.hidden = false;
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
    this.place = make("span", { class: "et-place" });
  }

  get segments() {
    return this.doc.segments[this.coarseness];
  }

  covers([x, y]) {
    return x >= 0 && y >= 0 && x < this.doc.w && y < this.doc.h;
  }

  segment([x, y]) {
    const { segments } = this;
    const { w, h } = this.doc;
    return segments.data[Math.floor((y * segments.h) / h) * segments.w + Math.floor((x * segments.w) / w)];
  }

  position(event) {
    const box = this.top.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  pixel(event) {
    const [x, y] = this.position(event);
    return [Math.floor((x - this.left) / this.scale), Math.floor((y - this.upper) / this.scale)];
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
        if (differs(data, row + x, around)) out[o] = m ? COLORS.line : COLORS.rim;
        else if (
          smart &&
          (cell !== segments.data[cellRow + cells[i + 1]] || cell !== segments.data[cellBelow + cells[i]])
        )
          out[o] = COLORS.mesh;
        else if (m) out[o] = [dark, light][Math.floor(((X + Y) % spacing) / stripe)] ?? fill;
        else if (smart && cell === lit) out[o] = COLORS.glow;
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
