// SPDX-License-Identifier: Apache-2.0
// The script of the page that kernel_page.py makes: follows an output pixel through the levels, and shows it.
"use strict";

const METHODS = ["CARAFE", "nearest", "bilinear"];
const MIN_SHARE = 0.01; // smaller shares are neither drawn nor listed
const DASHES = [[], [6, 4], [8, 3, 2, 3], [2, 3]]; // of the levels' frames
const SCALE = [[0, 32, 77], [123, 123, 120], [255, 234, 70]]; // three colours of cividis

/** Decode the bytes of all levels in place, and return the data. */
function decode(data) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  for (const level of data.views.flatMap((view) => view.levels)) {
    level.kernels = bytes(level.kernels);
    level.entropy = bytes(level.entropy);
  }
  return data;
}

/** Return the weights of the kernel of an output pixel of a level, row by row: stored is their root. */
function kernel(level, group, row, column) {
  const area = level.height * level.width * level.scale ** 2;
  const first = group * level.size ** 2 * area + row * level.width * level.scale + column;
  const squares = Array.from({ length: level.size ** 2 }, (_, tap) => level.kernels[first + tap * area] ** 2);
  const sum = squares.reduce((a, b) => a + b);
  return squares.map((square) => square / sum);
}

/** Return the two source positions between which an output position lies, with their weights. */
function between(position, scale, size) {
  const source = Math.max(0, (position + 0.5) / scale - 0.5);
  const first = Math.floor(source);
  return [[first, 1 - source + first], [Math.min(first + 1, size - 1), source - first]];
}

/** Return what an output pixel of a level takes: [row, column, weight] of cells, past the border too. */
function taps(level, method, group, row, column) {
  const y = Math.floor(row / level.scale), x = Math.floor(column / level.scale);
  if (method === "nearest") return [[y, x, 1]];
  if (method === "bilinear") {
    const columns = between(column, level.scale, level.width);
    return between(row, level.scale, level.height).flatMap(([r, v]) => columns.map(([c, w]) => [r, c, v * w]));
  }
  const k = level.size, half = (k - 1) / 2;
  return kernel(level, group, row, column).map((w, i) => [y + Math.floor(i / k) - half, x + (i % k) - half, w]);
}

/** Return the shares that the cells of each level's map have in a pixel of the finest output, mean over
 * groups: a list of {row, column, share} a level, as mmcarafe.analysis.trace computes them. */
function trace(view, method, row, column) {
  const count = method === "CARAFE" ? view.channels : 1;
  const shares = view.levels.map(() => new Map());
  for (let channel = 0; channel < count; channel++) {
    let cells = [{ row, column, share: 1 / count }];
    view.levels.forEach((level, number) => {
      const group = Math.floor((channel * level.groups) / count), found = new Map();
      for (const cell of cells) {
        for (const [r, c, weight] of taps(level, method, group, cell.row, cell.column)) {
          if (r < 0 || c < 0 || r >= level.height || c >= level.width) continue; // zeros
          add(found, r, c, level.width, cell.share * weight);
        }
      }
      cells = [...found.values()];
      for (const cell of cells) add(shares[number], cell.row, cell.column, level.width, cell.share);
    });
  }
  return shares.map((level) => [...level.values()].sort((a, b) => b.share - a.share));
}

function add(cells, row, column, width, share) {
  const key = row * width + column, before = cells.has(key) ? cells.get(key).share : 0;
  cells.set(key, { row, column, share: before + share });
}

/** Return the weights of a method as a square around the source pixel, mean over groups, and its side. */
function square(level, method, row, column) {
  const side = Math.max(level.size, 3), half = (side - 1) / 2;
  const y = Math.floor(row / level.scale) - half, x = Math.floor(column / level.scale) - half;
  const groups = method === "CARAFE" ? level.groups : 1;
  const weights = new Array(side * side).fill(0);
  for (let group = 0; group < groups; group++) {
    for (const [r, c, w] of taps(level, method, group, row, column)) weights[(r - y) * side + c - x] += w / groups;
  }
  return { side, weights };
}

/** Return left, top, width and height, in pixels of the image, of a cell of a level's map; -1: the output. */
function cellBox(view, number, row, column) {
  const times = view.levels.slice(0, number + 1).reduce((product, level) => product * level.scale, 1);
  const [dx, dy] = view.step.map((step) => step * times);
  return [view.box[0] + column * dx, view.box[1] + row * dy, dx, dy];
}

/** Return the area of the cells worth drawing: left, top, right, bottom. */
function footprint(view, number, cells) {
  const worth = cells.filter((cell, i) => i === 0 || cell.share >= MIN_SHARE);
  const boxes = worth.map((cell) => cellBox(view, number, cell.row, cell.column));
  const ends = [(b) => b[0], (b) => b[1], (b) => -b[0] - b[2], (b) => -b[1] - b[3]];
  const [left, top, right, bottom] = ends.map((end) => Math.min(...boxes.map(end)));
  return [left, top, -right, -bottom];
}

function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * 2, low = Math.min(Math.floor(place), 1);
  return `rgb(${SCALE[low].map((from, i) => Math.round(from + (place - low) * (SCALE[low + 1][i] - from)))})`;
}

const percent = (share, digits = 1) => (100 * share).toFixed(digits);

/** Draw a frame in one colour over a wider one, so that it is seen on any ground. */
function frame(context, box, unit, inner, outer, dash) {
  for (const [strokeStyle, width, pattern] of [[outer, 4, []], [inner, 2, dash]]) {
    Object.assign(context, { strokeStyle, lineWidth: width * unit });
    context.setLineDash(pattern.map((length) => length * unit));
    context.strokeRect(...box);
  }
}

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** What is chosen on the page, and how it is drawn. */
class Page {
  constructor(data, image) {
    this.data = data;
    this.image = image;
    this.held = false;
    this.canvas = document.getElementById("image");
    this.sharp = Math.max(1, Math.ceil(1200 / Math.max(...data.size))); // pixels of the canvas a pixel
    [this.canvas.width, this.canvas.height] = data.size.map((side) => side * this.sharp);
    document.getElementById("precision").textContent = data.precision;
    const part = document.getElementById("part");
    part.append(...data.views.map((view, i) => make("option", { value: i }, view.name)));
    part.addEventListener("change", () => this.choose(data.views[part.value]));
    this.canvas.addEventListener("pointermove", (event) => this.held || this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => {
      this.held = event.pointerType === "mouse" && !this.held; // a finger is lifted instead
      this.point(event);
    });
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.choose(data.views[0]);
  }

  choose(view) {
    this.view = view;
    this.levels = view.levels.map((level) => {
      const size = [level.width, level.height], larger = size.map((side) => side * level.scale);
      const title = make("h2", {}, `${level.name}: ${size.join(" x ")} → ${larger.join(" x ")}`);
      const entropy = make("p"), figures = METHODS.map(() => make("figure"));
      const section = make("section", {}, title, entropy, make("div", { className: "methods" }, ...figures));
      return { section, entropy, figures };
    });
    document.getElementById("levels").replaceChildren(...this.levels.map((level) => level.section));
    this.show(...view.start);
  }

  point(event) {
    const area = this.canvas.getBoundingClientRect(), zoom = area.width / this.data.size[0];
    const [left, top, dx, dy] = cellBox(this.view, -1, 0, 0);
    const x = (event.clientX - area.left) / zoom - left, y = (event.clientY - area.top) / zoom - top;
    this.show(Math.floor(y / dy), Math.floor(x / dx));
  }

  press(event) {
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const far = event.shiftKey ? 8 : 1;
    this.show(this.row + far * way[0], this.column + far * way[1]);
  }

  show(row, column) {
    const within = (value, [first, end]) => Math.min(Math.max(value, first), end - 1);
    this.row = within(row, this.view.rows);
    this.column = within(column, this.view.columns);
    const traces = METHODS.map((method) => trace(this.view, method, this.row, this.column));
    const [left, top, dx, dy] = cellBox(this.view, -1, this.row, this.column);
    const around = `x ${Math.floor(left + dx / 2)}, y ${Math.floor(top + dy / 2)}${this.held ? "; held" : ""}`;
    document.getElementById("status").textContent =
      `Output pixel: row ${this.row}, column ${this.column}; in the image around ${around}`;
    this.drawImage(traces[0]);
    let times = 1;
    this.view.levels.forEach((level, number) => {
      const place = [Math.floor(this.row / times), Math.floor(this.column / times)];
      times *= level.scale;
      const value = level.entropy[place[0] * level.width * level.scale + place[1]] / 255;
      const meter = make("meter", { value, ariaLabel: "uniformity" }), means = "1: all source pixels weigh the same";
      const says = ` ${value.toFixed(2)}: uniformity of CARAFE's kernel (its entropy; ${means})`;
      this.levels[number].entropy.replaceChildren(meter, says);
      const shares = traces.map((levels) => levels[number]), area = footprint(this.view, number, shares[0]);
      METHODS.forEach((method, i) => this.drawMethod(number, i, place, shares[i], area));
    });
    document.getElementById("numbers").replaceChildren(...traces[0].flatMap((cells, number) =>
      cells.filter((cell) => cell.share >= MIN_SHARE).map((cell) => make("tr", {},
        ...[number, cell.row, cell.column, percent(cell.share)].map((text) => make("td", {}, `${text}`))))));
  }

  drawImage(cells) {
    const context = this.canvas.getContext("2d"), unit = Math.max(...this.data.size) / 500;
    context.setTransform(this.sharp, 0, 0, this.sharp, 0, 0);
    context.drawImage(this.image, 0, 0);
    cells.forEach((level, number) => {
      const [left, top, right, bottom] = footprint(this.view, number, level);
      frame(context, [left, top, right - left, bottom - top], unit, "white", "black", DASHES[number % 4]);
    });
    frame(context, cellBox(this.view, -1, this.row, this.column), unit, "#d55e00", "white", []);
  }

  drawMethod(number, i, place, cells, area) {
    const method = METHODS[i], { side, weights } = square(this.view.levels[number], method, ...place);
    const most = Math.max(...weights), digits = side > 5 ? 0 : 1;
    const style = (value) => `background: ${colour(value)}; color: ${value > 0.55 ? "black" : "white"}`;
    const cell = (weight) => make("td", { style: style(weight / most) }, weight ? percent(weight, digits) : "");
    const row = (r) => make("tr", {}, ...weights.slice(r * side, (r + 1) * side).map(cell));
    const table = make("table", { className: "kernel" }, ...Array.from({ length: side }, (_, r) => row(r)));
    table.setAttribute("aria-label", `${method}: weights in per cent`);
    const canvas = make("canvas", { width: 300, height: 300 });
    this.drawShares(canvas, number, cells, area);
    const kept = cells.reduce((sum, cell) => sum + cell.share, 0);
    const lost = kept < 1 - MIN_SHARE ? `; ${percent(1 - kept)} % past the border` : "";
    const count = cells.filter((cell) => cell.share >= MIN_SHARE).length;
    this.levels[number].figures[i].replaceChildren(make("b", {}, method), table, canvas, make("figcaption", {},
      `cells with a share of 1 % or more: ${count}; the largest: ${percent(cells[0].share)} %${lost}`));
  }

  /** Draw the cells around an area as squares, the larger and lighter the larger their share. */
  drawShares(canvas, number, cells, [left, top, right, bottom]) {
    const context = canvas.getContext("2d"), [, , dx, dy] = cellBox(this.view, number, 0, 0);
    const width = Math.max(right - left + 2 * dx, bottom - top + 2 * dy, 7 * Math.max(dx, dy));
    const zoom = canvas.width / width, x = (left + right - width) / 2, y = (top + bottom - width) / 2;
    const placed = ([l, t, w, h]) => [(l - x) * zoom, (t - y) * zoom, w * zoom, h * zoom];
    context.globalAlpha = 0.55; // the image is faint
    context.drawImage(this.image, ...placed([0, 0, ...this.data.size]));
    context.globalAlpha = 1;
    for (const cell of cells.filter((found) => found.share >= MIN_SHARE)) {
      const box = placed(cellBox(this.view, number, cell.row, cell.column));
      const part = cell.share / cells[0].share, size = 0.94 * Math.sqrt(part);
      context.strokeStyle = "#555";
      context.strokeRect(...box);
      const middle = [0, 1].map((way) => box[way] + (box[way + 2] * (1 - size)) / 2);
      const inner = [...middle, box[2] * size, box[3] * size];
      Object.assign(context, { fillStyle: colour(part), strokeStyle: "black" });
      context.fillRect(...inner);
      context.strokeRect(...inner);
    }
    frame(context, placed(cellBox(this.view, -1, this.row, this.column)), 1.5, "#d55e00", "white", []);
  }
}

if (typeof document === "undefined") module.exports = { decode, kernel, square, trace };
else {
  const data = decode(JSON.parse(document.getElementById("data").textContent)), image = new Image();
  image.addEventListener("load", () => new Page(data, image));
  image.src = data.image;
}
