// What all views of one MaskEditor share: the image, the mask, and the steps of undo.
// Python receives the mask when a stroke is done.

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
