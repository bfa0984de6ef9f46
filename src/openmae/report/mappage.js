"use strict";
(() => {
const D = @data@;
const el = (id) => document.getElementById(id);
const canvas = el("map"), pen = canvas.getContext("2d"), count = D.x.length;
const hidden = new Set(), pinned = new Set();
let scale = 1, left = 0, top = 0, ratio = 1, wide = 1, high = 1, marked = -1, hits = null, at = -1;

// Places on the screen: the map is PLACES wide, `whole` shows all of it.
const px = (i) => D.x[i] * scale + left, py = (i) => D.y[i] * scale + top;
const seen = (i) => !hidden.has(D.k[i]);
const radius = () => Math.min(9, Math.max(2, 0.2 * Math.min(wide, high) / Math.sqrt(count)) * Math.sqrt(scale / fit()));
const fit = () => 0.92 * Math.min(wide, high) / 10000;

function whole() {
  scale = fit(); left = wide / 2 - 5000 * scale; top = high / 2 - 5000 * scale; draw();
}
function zoom(by, x = wide / 2, y = high / 2) {
  const next = Math.min(fit() * 200, Math.max(fit() * 0.5, scale * by));
  left = x - (x - left) * next / scale; top = y - (y - top) * next / scale; scale = next; draw();
}
function size() {
  ratio = window.devicePixelRatio || 1; wide = canvas.clientWidth; high = canvas.clientHeight;
  canvas.width = Math.round(wide * ratio); canvas.height = Math.round(high * ratio);
}

let asked = false;
function draw() { if (!asked) { asked = true; requestAnimationFrame(paint); } }
function outline(i, r) {
  const shape = D.shapes[Math.max(D.k[i], 0) % D.shapes.length], x = px(i), y = py(i);
  pen.moveTo(x + r * shape[0][0], y + r * shape[0][1]);
  for (const [a, b] of shape) pen.lineTo(x + r * a, y + r * b);
  pen.closePath();
}
function paint() {
  asked = false;
  const style = getComputedStyle(document.documentElement), r = radius();
  const text = style.getPropertyValue("--text"), colours = D.colours.length;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0); pen.clearRect(0, 0, wide, high);
  const groups = new Map();
  for (let i = 0; i < count; i++) {
    if (!seen(i) || px(i) < -9 || px(i) > wide + 9 || py(i) < -9 || py(i) > high + 9) continue;
    const key = D.k[i] * 2 + (hits === null || hits.has(i) ? 1 : 0);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(i);
  }
  for (const key of [...groups.keys()].sort((a, b) => a % 2 - b % 2 || a - b)) {
    const k = Math.floor(key / 2), strong = key % 2 !== 0;
    pen.beginPath();
    for (const i of groups.get(key)) outline(i, r);
    pen.globalAlpha = strong ? 0.88 : 0.13;
    pen.fillStyle = k < 0 ? D.colours[D.classes.length ? colours - 1 : 0] : D.colours[k % colours];
    pen.fill();
    pen.globalAlpha = strong ? 0.5 : 0.1; pen.strokeStyle = text; pen.lineWidth = 0.6; pen.stroke();
  }
  pen.globalAlpha = 1; pen.strokeStyle = text;
  for (const i of pinned) { if (seen(i)) ring(i, r + 4, 2); }
  if (marked >= 0) ring(marked, r + 5, 3);
  place();
}
function ring(i, r, width) {
  pen.lineWidth = width; pen.beginPath(); pen.arc(px(i), py(i), r, 0, 7); pen.stroke();
}

const kind = (i) => D.k[i] >= 0 && D.classes.length ? D.classes[D.k[i]] : "";
function face(image, i) {
  image.hidden = !D.t[i];
  if (D.t[i]) image.src = "data:image/" + D.t[i];
}
function mark(i, say = false) {
  if (i === marked) return;
  marked = i; el("card").hidden = i < 0;
  if (i >= 0) {
    face(el("face"), i); el("name").textContent = D.n[i];
    el("class").textContent = kind(i) + (D.t[i] ? "" : (kind(i) ? ", " : "") + "no picture in this file");
    if (say) el("live").textContent = D.n[i] + (kind(i) ? ", " + kind(i) : "");
  }
  draw();
}
function place() { // the card beside its point, within the map
  if (marked < 0) return;
  const card = el("card"), w = card.offsetWidth, h = card.offsetHeight;
  let x = px(marked) + 16, y = py(marked) + 16;
  if (x + w > wide) x = px(marked) - w - 16;
  if (y + h > high) y = py(marked) - h - 16;
  card.style.transform = `translate(${Math.max(2, Math.min(x, wide - w - 2))}px, `
    + `${Math.max(2, Math.min(y, high - h - 2))}px)`;
}
function near(x, y, most) {
  let best = -1, least = most * most;
  for (let i = 0; i < count; i++) {
    if (!seen(i)) continue;
    const d = (px(i) - x) ** 2 + (py(i) - y) ** 2;
    if (d < least) { least = d; best = i; }
  }
  return best;
}
function look(i) { // go there, if it is not in sight
  const x = px(i), y = py(i);
  if (x < 20 || x > wide - 20 || y < 20 || y > high - 20) { left += wide / 2 - x; top += high / 2 - y; }
  mark(i, true); draw();
}
function step(dx, dy) {
  if (marked < 0 || !seen(marked)) return look(Math.max(0, near(wide / 2, high / 2, 1e9)));
  let best = -1, least = Infinity;
  for (let i = 0; i < count; i++) {
    if (i === marked || !seen(i)) continue;
    const along = (px(i) - px(marked)) * dx + (py(i) - py(marked)) * dy;
    const across = Math.abs((px(i) - px(marked)) * dy) + Math.abs((py(i) - py(marked)) * dx);
    if (along <= 0 || across > along) continue;
    if (along + across < least) { least = along + across; best = i; }
  }
  if (best >= 0) look(best);
}

function pin(i) {
  if (i < 0) return;
  if (pinned.has(i)) pinned.delete(i); else pinned.add(i);
  el("live").textContent = D.n[i] + (pinned.has(i) ? " is pinned" : " is no longer pinned");
  el("pins").hidden = !pinned.size;
  el("pinned").replaceChildren(...[...pinned].map((p) => {
    const line = document.createElement("li"), words = document.createElement("div");
    const image = document.createElement("img"), more = document.createElement("small");
    const close = document.createElement("button");
    face(image, p); image.alt = ""; words.textContent = D.n[p]; more.textContent = kind(p);
    close.type = "button"; close.textContent = "×"; close.setAttribute("aria-label", "Unpin " + D.n[p]);
    close.addEventListener("click", () => { pin(p); canvas.focus(); });
    words.append(more); line.append(image, words, close);
    return line;
  }));
  draw();
}

// The pointer: one moves the map, two zoom it.
const down = new Map();
let moved = 0;
const spot = (e) => { const b = canvas.getBoundingClientRect(); return [e.clientX - b.left, e.clientY - b.top]; };
canvas.addEventListener("pointerdown", (e) => {
  canvas.setPointerCapture(e.pointerId); down.set(e.pointerId, spot(e)); if (down.size === 1) moved = 0;
});
canvas.addEventListener("pointermove", (e) => {
  const [x, y] = spot(e), before = down.get(e.pointerId);
  if (!before) return mark(near(x, y, 14));
  moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
  const other = [...down].find(([id]) => id !== e.pointerId);
  if (other) {
    const [ox, oy] = other[1], length = (a, b) => Math.hypot(a - ox, b - oy) || 1;
    zoom(length(x, y) / length(...before), ox, oy);
  } else if (moved > 4) { left += x - before[0]; top += y - before[1]; draw(); }
  down.set(e.pointerId, [x, y]);
});
canvas.addEventListener("pointerup", (e) => {
  if (down.size === 1 && moved <= 4) { const i = near(...spot(e), 16); mark(i, true); pin(i); }
  down.delete(e.pointerId);
});
canvas.addEventListener("pointercancel", (e) => down.delete(e.pointerId));
canvas.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse" && !down.size) mark(-1); });
canvas.addEventListener("wheel", (e) => {
  e.preventDefault(); zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), ...spot(e));
}, { passive: false });

const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const way = ways[e.key];
  if (way && e.shiftKey) { left -= way[0] * 60; top -= way[1] * 60; draw(); }
  else if (way) step(...way);
  else if (e.key === "+" || e.key === "=") zoom(1.4);
  else if (e.key === "-") zoom(1 / 1.4);
  else if (e.key === "0" || e.key === "Home") whole();
  else if (e.key === "Enter" || e.key === " ") pin(marked);
  else if (e.key === "Escape") mark(-1);
  else return;
  e.preventDefault();
});
canvas.addEventListener("blur", () => mark(-1));

function search() {
  const word = el("search").value.trim().toLowerCase();
  hits = null; at = -1; el("found").textContent = "";
  if (word) {
    hits = new Set();
    D.n.forEach((name, i) => { if (name.toLowerCase().includes(word)) hits.add(i); });
    el("found").textContent = hits.size === 1 ? "1 fits" : hits.size.toLocaleString("en") + " fit";
  }
  draw();
}
el("search").addEventListener("input", search);
el("search").addEventListener("keydown", (e) => {
  if (e.key === "Escape") { el("search").value = ""; search(); mark(-1); }
  if (e.key !== "Enter" || !hits) return;
  const list = [...hits].filter(seen);
  if (!list.length) return;
  at = (at + 1) % list.length; look(list[at]);
  el("found").textContent = `${at + 1} of ${list.length}: ${D.n[list[at]]}`;
});
el("in").addEventListener("click", () => zoom(1.5));
el("out").addEventListener("click", () => zoom(1 / 1.5));
el("whole").addEventListener("click", whole);
for (const button of document.querySelectorAll("[data-class]")) button.addEventListener("click", () => {
  const k = Number(button.dataset.class), show = hidden.has(k);
  if (show) hidden.delete(k); else hidden.add(k);
  button.setAttribute("aria-pressed", String(show));
  if (marked >= 0 && !seen(marked)) mark(-1);
  draw();
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(() => { const w = wide, h = high; size();
  if (w === 1) whole(); else { left += (wide - w) / 2; top += (high - h) / 2; draw(); } }).observe(canvas);
})();
