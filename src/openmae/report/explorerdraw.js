"use strict";
// Canvases of patches: drawing, pointing, the keyboard. Nothing here knows of the server.

const $ = (id) => document.getElementById(id);

function element(name, words, classes) {
  const made = document.createElement(name);
  if (words !== undefined) made.textContent = words;
  if (classes) made.className = classes;
  return made;
}

function loadImage(url) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("a picture cannot be shown"));
    image.src = url;
  });
}

// A picture on a canvas, enlarged by whole numbers so that pixels stay honest.
class Board {
  constructor(canvas, model) {
    this.canvas = canvas;
    [this.h, this.w] = model.size;
    [this.p, this.q] = model.patch;
    [this.rows, this.cols] = model.grid;
    this.scale = Math.max(1, Math.round(448 / Math.max(this.h, this.w)));
    canvas.width = this.w * this.scale;
    canvas.height = this.h * this.scale;
    this.pen = canvas.getContext("2d");
    this.pen.imageSmoothingEnabled = false;
    this.cursor = null;
  }

  image(picture) {
    this.pen.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
  }

  // The patches `ids` of a picture on top, or gray where there is none.
  patches(ids, picture) {
    const s = this.scale, { p, q } = this;
    this.pen.fillStyle = "rgb(128,128,128)";
    for (const id of ids) {
      const x = (id % this.cols) * q, y = Math.floor(id / this.cols) * p;
      if (picture) this.pen.drawImage(picture, x, y, q, p, x * s, y * s, q * s, p * s);
      else this.pen.fillRect(x * s, y * s, q * s, p * s);
    }
  }

  lines() {
    const s = this.scale;
    this.pen.strokeStyle = "rgba(255,255,255,.28)";
    this.pen.lineWidth = 1;
    this.pen.beginPath();
    for (let c = 1; c < this.cols; c++) {
      this.pen.moveTo(c * this.q * s + .5, 0);
      this.pen.lineTo(c * this.q * s + .5, this.canvas.height);
    }
    for (let r = 1; r < this.rows; r++) {
      this.pen.moveTo(0, r * this.p * s + .5);
      this.pen.lineTo(this.canvas.width, r * this.p * s + .5);
    }
    this.pen.stroke();
  }

  frame(id) {
    const s = this.scale, x = (id % this.cols) * this.q * s;
    const y = Math.floor(id / this.cols) * this.p * s, w = this.q * s, h = this.p * s;
    for (const [colour, line] of [["#000", 4], ["#fff", 2]]) {
      this.pen.strokeStyle = colour;
      this.pen.lineWidth = line;
      this.pen.strokeRect(x + 1, y + 1, w - 2, h - 2);
    }
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * this.cols);
    const y = Math.floor((event.clientY - box.top) / box.height * this.rows);
    if (x < 0 || y < 0 || x >= this.cols || y >= this.rows) return null;
    return y * this.cols + x;
  }

  place(id) {
    return `row ${Math.floor(id / this.cols) + 1}, column ${id % this.cols + 1}`;
  }

  // Arrow keys move a cursor; space or Enter acts on its patch.
  keys(moved, act) {
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const now = this.cursor === null ? 0 : this.cursor;
      if (step[event.key]) {
        const [dr, dc] = step[event.key];
        const r = Math.min(this.rows - 1, Math.max(0, Math.floor(now / this.cols) + dr));
        const c = Math.min(this.cols - 1, Math.max(0, now % this.cols + dc));
        this.cursor = this.cursor === null ? 0 : r * this.cols + c;
        moved(this.cursor);
      } else if (event.key === " " || event.key === "Enter") {
        this.cursor = now;
        act(now);
      } else return;
      event.preventDefault();
    });
    this.canvas.addEventListener("blur", () => { this.cursor = null; moved(null); });
  }

  // Press and drag: the first patch decides what all of them become.
  drag(begin, over, end) {
    let down = false;
    this.canvas.addEventListener("pointerdown", (event) => {
      const id = this.at(event);
      if (id === null || event.button) return;
      down = true;
      this.canvas.setPointerCapture(event.pointerId);
      begin(id);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const id = down ? this.at(event) : null;
      if (id !== null) over(id);
    });
    for (const name of ["pointerup", "pointercancel"])
      this.canvas.addEventListener(name, () => { if (down) { down = false; end(); } });
  }
}

// Weights of patches as light on a dimmed picture, the least dark and the most bright.
function drawWeights(canvas, model, picture, weights, chosen) {
  const board = new Board(canvas, model);
  const least = Math.min(...weights), most = Math.max(...weights), span = most - least || 1;
  board.image(picture);
  weights.forEach((weight, id) => {
    const x = (id % board.cols) * board.q * board.scale;
    const y = Math.floor(id / board.cols) * board.p * board.scale;
    board.pen.fillStyle = `rgba(0,0,0,${(.85 * (1 - (weight - least) / span)).toFixed(3)})`;
    board.pen.fillRect(x, y, board.q * board.scale, board.p * board.scale);
  });
  board.frame(chosen);
}
