// Charts on canvases: drawn anew from bounded arrays once a second, nothing is kept between two drawings
// but what the pointer needs.

import { clock } from "./format.js";

const PAD = { left: 60, right: 8, top: 8, bottom: 20 };
const GAP_SECONDS = 4; // a longer silence breaks a line
const tip = document.getElementById("tip");

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const prepare = (canvas) => {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height };
};

const niceStep = (range, count) => {
  const raw = range / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].find((step) => step * power >= raw) * power;
};

// Marks of the y axis, and where a value lies between 0 and 1; `base` is 1024 where units go by that.
const linear = (top, base = 1000) => {
  const unit = base ** Math.max(0, Math.floor(Math.log(top || 1) / Math.log(base)));
  const step = niceStep((top || 1) / unit, 4) * unit;
  const end = Math.max(Math.ceil(top / step) * step, step);
  const marks = Array.from({ length: Math.round(end / step) + 1 }, (_, i) => i * step);
  return { marks, place: (value) => value / end };
};

const logarithmic = (low, top) => {
  const first = Math.floor(Math.log10(low));
  const last = Math.max(Math.ceil(Math.log10(top)), first + 1);
  const marks = Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  return { marks, place: (value) => (Math.log10(value) - first) / (last - first) };
};

const nearest = (points, at) => {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].at < at) low = middle + 1; else high = middle;
  }
  const before = points[low - 1], after = points[low];
  if (!before || !after) return before ?? after;
  return at - before.at < after.at - at ? before : after;
};

export class TimeChart {
  // options: format (of values), log, stacked, base (1024 for bytes)
  constructor(id, options) {
    this.canvas = document.getElementById(id);
    this.options = options;
    this.pointer = null;
    this.shown = null;
    this.legend = document.createElement("div");
    this.legend.className = "legend";
    this.canvas.parentElement.before(this.legend);
    this.canvas.addEventListener("pointermove", (event) => { this.pointer = event; this.redraw(); });
    this.canvas.addEventListener("pointerleave", () => { this.pointer = null; tip.hidden = true; this.redraw(); });
  }

  // shown: {points, from, to, series: [{name, colour, value}], limit, marks: [{at, colour, sentence, title}]}
  draw(shown) { this.shown = shown; this.name(); this.redraw(); }

  name() {
    const text = this.shown.series.map((one) => one.name + one.colour).join();
    if (this.legend.dataset.text === text) return;
    this.legend.dataset.text = text;
    this.legend.replaceChildren(...this.shown.series.map((one) => {
      const entry = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.background = one.colour;
      entry.append(swatch, one.name);
      return entry;
    }));
  }

  redraw() {
    if (!this.shown) return;
    const { context, width, height } = prepare(this.canvas);
    const { points, from, to, series } = this.shown;
    const inner = { width: width - PAD.left - PAD.right, height: height - PAD.top - PAD.bottom };
    if (inner.width < 20) return;
    const first = points.findIndex((point) => point.at >= from - GAP_SECONDS);
    const seen = first < 0 ? [] : points.slice(first);
    const axis = this.axis(seen);
    const x = (at) => PAD.left + ((at - from) / (to - from)) * inner.width;
    const y = (value) => PAD.top + (1 - axis.place(value)) * inner.height;
    this.grid(context, width, height, axis, x, y);
    context.save();
    context.beginPath();
    context.rect(PAD.left, PAD.top - 2, inner.width, inner.height + 4);
    context.clip();
    if (this.options.stacked) this.areas(context, seen, series, x, y);
    else for (const one of series) this.line(context, seen, one, x, y);
    this.limit(context, width, y);
    context.restore();
    this.marks(context, height, x);
    this.hover(context, seen, height, x, from, to, inner.width);
  }

  axis(seen) {
    const { series, limit } = this.shown;
    if (this.options.stacked) {
      return linear(Math.max(0, ...seen.map((point) => series.reduce((sum, one) => sum + (one.value(point) ?? 0), 0))), this.options.base);
    }
    let top = limit ?? 0, low = limit ?? Infinity;
    for (const one of series) {
      for (const point of seen) {
        const value = one.value(point);
        if (value > top) top = value;
        if (value > 0 && value < low) low = value;
      }
    }
    if (!this.options.log) return linear(top, this.options.base);
    return Number.isFinite(low) && top > 0 ? logarithmic(low, top) : logarithmic(1e-4, 1e-1);
  }

  grid(context, width, height, axis, x, y) {
    context.strokeStyle = colour("--line");
    context.fillStyle = colour("--dim");
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const mark of axis.marks) {
      const at = Math.round(y(mark)) + 0.5;
      context.beginPath();
      context.moveTo(PAD.left, at);
      context.lineTo(width - PAD.right, at);
      context.stroke();
      context.fillText(this.options.format(mark), PAD.left - 5, at);
    }
    const { from, to } = this.shown;
    const step = [30, 60, 120, 300, 600, 900].find((each) => ((to - from) / each) * 62 < width - PAD.left) ?? 900;
    context.textAlign = "center";
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      if (x(at) > PAD.left + 20 && x(at) < width - 24) context.fillText(clock(at).slice(0, 5 + 3 * (step < 60)), x(at), height - 8);
    }
  }

  line(context, seen, one, x, y) {
    context.strokeStyle = one.colour;
    context.lineWidth = 1.6;
    context.setLineDash(one.dashed ? [5, 4] : []);
    context.beginPath();
    let last = -Infinity;
    for (const point of seen) {
      const value = one.value(point);
      if (value === null || value === undefined || (this.options.log && value <= 0)) { last = -Infinity; continue; }
      if (point.at - last > GAP_SECONDS) context.moveTo(x(point.at), y(value));
      else context.lineTo(x(point.at), y(value));
      last = point.at;
    }
    context.stroke();
    context.setLineDash([]);
  }

  areas(context, seen, series, x, y) {
    const below = new Float64Array(seen.length);
    for (const one of series) {
      context.fillStyle = one.colour;
      context.beginPath();
      seen.forEach((point, i) => context.lineTo(x(point.at), y(below[i] + (one.value(point) ?? 0))));
      for (let i = seen.length - 1; i >= 0; i -= 1) context.lineTo(x(seen[i].at), y(below[i]));
      context.fill();
      seen.forEach((point, i) => { below[i] += one.value(point) ?? 0; });
    }
  }

  limit(context, width, y) {
    const { limit } = this.shown;
    if (!limit) return;
    context.strokeStyle = colour("--bad");
    context.lineWidth = 1;
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(PAD.left, y(limit));
    context.lineTo(width - PAD.right, y(limit));
    context.stroke();
    context.setLineDash([]);
  }

  marks(context, height, x) {
    for (const mark of this.visibleMarks()) {
      const at = x(mark.at), floor = height - PAD.bottom;
      context.strokeStyle = context.fillStyle = mark.colour;
      context.globalAlpha = 0.55;
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(at, PAD.top);
      context.lineTo(at, floor);
      context.stroke();
      context.globalAlpha = 1;
      context.beginPath();
      context.moveTo(at, floor - 7);
      context.lineTo(at - 5, floor + 2);
      context.lineTo(at + 5, floor + 2);
      context.fill();
    }
  }

  visibleMarks() {
    const { marks = [], from, to } = this.shown;
    return marks.filter((mark) => mark.at >= from && mark.at <= to);
  }

  hover(context, seen, height, x, from, to, innerWidth) {
    if (!this.pointer) return;
    const box = this.canvas.getBoundingClientRect();
    const at = from + ((this.pointer.clientX - box.left - PAD.left) / innerWidth) * (to - from);
    const point = nearest(seen, at);
    const reach = (7 / innerWidth) * (to - from);
    const marks = this.visibleMarks().filter((mark) => Math.abs(mark.at - at) <= reach);
    if (!point && !marks.length) { tip.hidden = true; return; }
    if (point) {
      context.strokeStyle = colour("--dim");
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x(point.at), PAD.top);
      context.lineTo(x(point.at), height - PAD.bottom);
      context.stroke();
    }
    this.tell(point, marks);
  }

  tell(point, marks) {
    const lines = [];
    const add = (text, swatch, name) => {
      const line = document.createElement("div");
      if (swatch) { const i = document.createElement("i"); i.style.background = swatch; line.append(i); }
      line.append(text);
      if (name) line.className = name;
      lines.push(line);
    };
    if (point) {
      add(clock(point.at));
      for (const one of this.shown.series) {
        const value = one.value(point);
        if (value !== null && value !== undefined) add(`${one.name} ${this.options.format(value)}`, one.colour);
      }
    }
    for (const mark of marks) add(`${mark.title}: ${mark.sentence}`, mark.colour, "sentence");
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    const left = this.pointer.clientX + 14 + wide > window.innerWidth ? this.pointer.clientX - 14 - wide : this.pointer.clientX + 14;
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${Math.max(Math.min(this.pointer.clientY + 12, window.innerHeight - high - 4), 4)}px`;
  }
}

// Predicted against measured work, a cell per half octave, the older the paler.
export class CellChart {
  constructor(id, format) {
    this.canvas = document.getElementById(id);
    this.format = format;
    this.size = 48;
    this.cells = new Float64Array(this.size * this.size);
  }

  add(cells) {
    for (let i = 0; i < this.cells.length; i += 1) this.cells[i] *= 0.93;
    for (const [predicted, measured, segments] of cells) this.cells[predicted * this.size + measured] += segments;
  }

  draw() {
    const { context, width, height } = prepare(this.canvas);
    const left = 48, bottom = 20, side = Math.min(width - left - 4, height - bottom - 4);
    if (side < 20) return;
    let low = this.size, high = 0, top = 0;
    this.cells.forEach((value, i) => {
      if (value < 0.01) return;
      const predicted = Math.floor(i / this.size), measured = i % this.size;
      low = Math.min(low, predicted, measured);
      high = Math.max(high, predicted, measured);
      top = Math.max(top, value);
    });
    const empty = high < low;
    if (empty) { low = 8; high = 24; }
    low = Math.max(low - 2, 0); high = Math.min(high + 2, this.size - 1);
    const cell = side / (high - low + 1);
    const base = height - bottom;
    context.strokeStyle = colour("--line");
    context.strokeRect(left + 0.5, base - side + 0.5, side, side);
    context.fillStyle = colour("--accent");
    this.cells.forEach((value, i) => {
      if (value < 0.01) return;
      const predicted = Math.floor(i / this.size) - low, measured = (i % this.size) - low;
      context.globalAlpha = 0.15 + 0.85 * Math.log1p(value) / Math.log1p(top);
      context.fillRect(left + predicted * cell, base - (measured + 1) * cell, Math.ceil(cell), Math.ceil(cell));
    });
    context.globalAlpha = 1;
    context.strokeStyle = colour("--dim");
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(left, base);
    context.lineTo(left + side, base - side);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = colour("--dim");
    const amount = (index) => this.format(1.024e-6 * 2 ** (index / 2));
    context.textBaseline = "top";
    context.textAlign = "left"; context.fillText(amount(low), left, base + 5);
    context.textAlign = "center"; context.fillText("predicted", left + side / 2, base + 5);
    context.textAlign = "right"; context.fillText(amount(high + 1), left + side, base + 5);
    context.textBaseline = "middle";
    context.fillText(amount(high + 1), left - 4, base - side + 6);
    context.save();
    context.translate(left - 14, base - side / 2); context.rotate(-Math.PI / 2);
    context.textAlign = "center"; context.fillText("measured", 0, 0);
    context.restore();
    if (empty) { context.textAlign = "center"; context.fillText("nothing predicted yet", left + side / 2, base - side / 4); }
  }
}
