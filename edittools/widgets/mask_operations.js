// What the tools of MaskEditor do to a mask. editor.py joins this file and the other four to one module.
// A mask is {w, h, data}, data one byte per pixel; v is 1 to add and 0 to take away; a point is [x, y].

function span(mask, y, from, to, v) {
  if (y < 0 || y >= mask.h || to < 0 || from >= mask.w) return;
  mask.data.fill(v, y * mask.w + Math.max(from, 0), y * mask.w + Math.min(to, mask.w - 1) + 1);
}

// Half the width of a disc in each of its rows -radius … radius.
function discRows(radius) {
  return Array.from({ length: 2 * radius + 1 }, (_, i) =>
    Math.floor(Math.sqrt(radius * (radius + 1) - (i - radius) ** 2)),
  );
}

// The pixels of a straight line.
function* line([x0, y0], [x1, y1]) {
  const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0));
  const along = (i, a, b) => a + Math.floor((2 * i * (b - a) + steps) / Math.max(2 * steps, 1));
  for (let i = 0; i <= steps; i++) yield [along(i, x0, x1), along(i, y0, y1)];
}

function stroke(mask, points, radius, v) {
  const rows = discRows(radius);
  points.forEach((point, k) => {
    for (const [x, y] of line(points[Math.max(k - 1, 0)], point)) {
      rows.forEach((half, j) => span(mask, y + j - radius, x - half, x + half, v));
    }
  });
}

function polygon(mask, points, v) {
  const crossings = Array.from({ length: mask.h }, () => []);
  points.forEach((a, k) => {
    const b = points[(k + 1) % points.length];
    const [[x0, y0], [x1, y1]] = a[1] <= b[1] ? [a, b] : [b, a];
    for (let y = Math.max(y0, 0); y < Math.min(y1, mask.h); y++) {
      crossings[y].push(Math.floor(x0 + ((y - y0) * (x1 - x0)) / (y1 - y0)) + 1);
    }
  });
  crossings.forEach((xs, y) => {
    xs.sort((a, b) => a - b);
    for (let i = 0; i < xs.length; i += 2) if (xs[i] < xs[i + 1]) span(mask, y, xs[i], xs[i + 1] - 1, v);
  });
  stroke(mask, [...points, points[0]], 0, v);
}

function rectangle(mask, [x0, y0], [x1, y1], v) {
  const last = Math.min(Math.max(y0, y1), mask.h - 1);
  for (let y = Math.max(Math.min(y0, y1), 0); y <= last; y++)
    span(mask, y, Math.min(x0, x1), Math.max(x0, x1), v);
}

// The pixels whose centers lie in the ellipse that touches the sides of the box from one corner to the other.
function ellipse(mask, [x0, y0], [x1, y1], v) {
  const width = Math.abs(x1 - x0) + 1;
  const height = Math.abs(y1 - y0) + 1;
  const inside = (x, y) => ((2 * x - x0 - x1) * height) ** 2 + ((2 * y - y0 - y1) * width) ** 2 <= (width * height) ** 2;
  for (let y = Math.min(y0, y1); y <= Math.max(y0, y1); y++) {
    let x = Math.min(x0, x1);
    while (!inside(x, y) && 2 * x < x0 + x1) x++;
    if (inside(x, y)) span(mask, y, x, x0 + x1 - x, v);
  }
}

// Set v where the coarser grid, enlarged to the mask's size, holds `value`.
function setWhere(mask, grid, value, v) {
  const columns = Int32Array.from({ length: mask.w }, (_, x) => Math.floor((x * grid.w) / mask.w));
  for (let y = 0; y < mask.h; y++) {
    const from = Math.floor((y * grid.h) / mask.h) * grid.w;
    const to = y * mask.w;
    for (let x = 0; x < mask.w; x++) if (grid.data[from + columns[x]] === value) mask.data[to + x] = v;
  }
}

function grow(mask, radius) {
  const rows = discRows(radius);
  const out = { ...mask, data: new Uint8Array(mask.data.length) };
  for (const [start, end] of runs(mask.data)) {
    for (let p = start; p < end;) {
      const y = Math.floor(p / mask.w);
      const q = Math.min(end, (y + 1) * mask.w);
      const x = p - y * mask.w;
      rows.forEach((half, j) => span(out, y + j - radius, x - half, x + q - p - 1 + half, 1));
      p = q;
    }
  }
  mask.data.set(out.data);
}

function invert({ data }) {
  for (let i = 0; i < data.length; i++) data[i] ^= 1;
}

function shrink(mask, radius) {
  invert(mask);
  grow(mask, radius);
  invert(mask);
}

function* runs(data) {
  for (let p = data.indexOf(1); p >= 0;) {
    const next = data.indexOf(0, p);
    const q = next < 0 ? data.length : next;
    yield [p, q];
    p = next < 0 ? -1 : data.indexOf(1, q);
  }
}

// The bits of a mask, eight pixels per byte, the first one in the highest bit.
function pack(data) {
  const bits = new Uint8Array(Math.ceil(data.length / 8));
  for (let i = 0; i < data.length; i++) {
    if (data[i]) bits[i >> 3] |= 128 >> (i & 7);
  }
  return bits;
}

// The mask of its bits, which Python sends as a DataView.
function unpack(bits, size) {
  const bytes = bytesOf(bits);
  const data = new Uint8Array(size);
  for (let i = 0; i < size; i++) data[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return data;
}

function bytesOf(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

// Whether two masks have the same bits.
function areEqual(bits, others) {
  const other = bytesOf(others);
  return bytesOf(bits).every((byte, at) => byte === other[at]);
}
