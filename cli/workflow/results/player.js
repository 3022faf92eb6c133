"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const blocks = [...document.querySelectorAll("script.video")];
const [video, boxes, rows, score] = ["video", "boxes", "rows", "score"].map($);
const LABELS = 3; // actions written at a person
const off = new Set(); // label ids that are filtered out, kept from one video to the next
let now; // the data of the video that is shown
let lines = []; // the timeline's rows
let starts = []; // when their segments begin, in ms
let burned = false; // whether the boxes are part of the pictures
let listed = -1; // key frame whose people are listed

// The first place in an ascending list whose value is not less.
function lower(list, value) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
function clock(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000 + 1e-3));
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, "0"));
  return [...(seconds >= 3600 ? [Math.floor(seconds / 3600)] : []), ...parts].join(":");
}
const percent = (score) => `${Math.round(score / 10)}%`;
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
function swatch(label) {
  const made = element("i");
  made.style.setProperty("--o", data.classes[label].colour);
  return made;
}

// What passes the filter of a person at one of their key frames: [label id, score per mille], best first.
function passing(flat) {
  const found = [];
  for (let i = 0; i < flat.length; i += 2)
    if (flat[i + 1] >= score.value * 1000 && !off.has(flat[i])) found.push([flat[i], flat[i + 1]]);
  return found;
}

// The nearest key frame to a time, and who is seen then, with boxes in shares of the picture: as `VideoPeople.at`.
function peopleAt(ms) {
  const { times_ms: times, edges_ms: edges } = now;
  const nearest = Math.min(times.length, Math.max(1, lower(edges, ms + 1e-6))) - 1;
  if (ms < edges[0] || ms >= edges[times.length]) return [nearest, []];
  const step = ms < times[nearest] ? -1 : 1;
  const everyone = off.size === 0 && score.value === score.min; // else only those who pass the filter
  const seen = now.byFrame[nearest].map(({ id, frames, sides, actions }) => {
    const place = lower(frames, nearest);
    const moves = frames[place + step] === nearest + step;
    const part = moves ? (ms - times[nearest]) / (times[nearest + step] - times[nearest]) : 0;
    const side = (i, at) => sides[4 * at + i] / data.units;
    const box = [0, 1, 2, 3].map((i) => side(i, place) + (part && part * (side(i, place + step) - side(i, place))));
    return { id, box, actions: passing(actions[place]) };
  });
  return [nearest, seen.filter(({ actions }) => everyone || actions.length)];
}

function draw(ms = video.currentTime * 1000) {
  const [nearest, seen] = peopleAt(ms);
  const context = cleared(boxes);
  const taken = [];
  if (!burned && $("shown").checked) seen.forEach((person) => drawPerson(context, person, taken));
  $("clock").value = `${clock(ms)} / ${clock(now.length_ms)}`;
  $("needle").style.setProperty("--at", Math.min(1, ms / now.length_ms));
  if (nearest === listed) return;
  listed = nearest;
  const words = (actions) => actions.map(([label, score]) => `${data.classes[label].name} ${percent(score)}`).join(", ");
  $("now").value = seen.map(({ id, actions }) => `${id}: ${words(actions) || "none"}`).join(" · ") || "nobody";
}

// taken: where the labels of others stand, x1, y1, x2, y2.
function drawPerson(context, { id, box, actions }, taken) {
  const scale = Math.min(boxes.clientWidth / now.width, boxes.clientHeight / now.height); // the picture keeps its shape
  const [width, height] = [now.width * scale, now.height * scale];
  const [left, top] = [(boxes.clientWidth - width) / 2, (boxes.clientHeight - height) / 2];
  const [x1, y1, x2, y2] = box.map((side, i) => (i % 2 ? top + side * height : left + side * width));
  const texts = actions.slice(0, LABELS).map(([l, s]) => [`${data.classes[l].name} ${percent(s)}`, data.classes[l].colour]);
  if (!texts.length) texts.push(["", data.no_action]);
  texts[0][0] = `${id}  ${texts[0][0]}`;
  for (const [line, colour] of [[4, "#0008"], [2, texts[0][1]]]) {
    Object.assign(context, { lineWidth: line, strokeStyle: colour });
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  const size = Math.max(11, Math.min(18, height / 28));
  Object.assign(context, { font: `600 ${size}px system-ui, sans-serif`, textBaseline: "middle" });
  const line = size * 1.35;
  const tall = line * texts.length;
  const wide = Math.max(...texts.map(([text]) => context.measureText(text).width)) + 8;
  const x = Math.max(left, Math.min(x1, left + width - wide));
  let y = y1 - tall >= top ? y1 - tall : Math.min(y1, top + height - tall);
  for (const [a1, b1, a2, b2] of taken.sort((one, other) => other[1] - one[1]))
    if (x < a2 && x + wide > a1 && y < b2 && y + tall > b1) y = Math.max(top, b1 - tall);
  taken.push([x, y, x + wide, y + tall]);
  for (const [text, colour] of texts) {
    context.fillStyle = colour;
    context.fillRect(x, y, context.measureText(text).width + 8, line);
    context.fillStyle = "#000";
    context.fillText(text, x + 4, y + line / 2);
    y += line;
  }
}

// Give a canvas one pixel for each of the screen, and clear it.
function cleared(canvas) {
  const scale = devicePixelRatio;
  const size = { width: Math.round(canvas.clientWidth * scale), height: Math.round(canvas.clientHeight * scale) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return context;
}

// Make the timeline's rows, one for each person and action, with segments [begin, end] in ms.
function filter() {
  lines = now.people.flatMap(({ id, frames, actions }) => {
    const byLabel = new Map();
    frames.forEach((number, place) => {
      const [begin, end] = [now.edges_ms[number], now.edges_ms[number + 1]];
      for (const [label] of passing(actions[place])) {
        if (!byLabel.has(label)) byLabel.set(label, []);
        const segments = byLabel.get(label);
        if (segments.length && segments.at(-1)[1] === begin) segments.at(-1)[1] = end;
        else segments.push([Math.max(0, begin), end]);
      }
    });
    const sorted = [...byLabel].sort((one, other) => one[0] - other[0]);
    return sorted.map(([label, segments], i) => ({ id, label, segments, first: i === 0 }));
  });
  starts = [...new Set(lines.flatMap(({ segments }) => segments.map(([begin]) => begin)))].sort((a, b) => a - b);
  $("least").value = Number(score.value).toFixed(2);
  $("count").textContent = `${lines.length} ${lines.length === 1 ? "row" : "rows"}`;
  listed = -1;
  layOut();
}

const inView = new Map(); // row elements by number: only these exist, and they stay while in view, with the focus
function showRows() {
  const height = parseFloat(getComputedStyle(rows).getPropertyValue("--row"));
  for (const part of ["space", "needle"]) $(part).style.height = `${lines.length * height}px`;
  const from = Math.max(0, Math.floor(rows.scrollTop / height) - 1);
  const to = Math.min(lines.length, from + Math.ceil(rows.clientHeight / height) + 3);
  inView.forEach((row, number) => {
    if (number >= from && number < to) return;
    row.remove();
    inView.delete(number);
  });
  for (let number = from; number < to; number++)
    if (!inView.has(number)) inView.set(number, addRow(lines[number], number * height));
}

function addRow({ id, label, segments, first }, top) {
  const name = data.classes[label].name;
  const title = `Person ${id}, ${name}, ${segments.length} times from ${clock(segments[0][0])}: go to the next`;
  const button = element("button", { type: "button", title }, swatch(label), element("span", {}, `${id} · ${name}`));
  button.setAttribute("aria-label", title);
  const canvas = element("canvas");
  const row = element("div", { className: first ? "row first" : "row" }, button, canvas);
  row.style.top = `${top}px`;
  rows.append(row);
  const context = cleared(canvas);
  const scale = canvas.clientWidth / now.length_ms;
  context.fillStyle = data.classes[label].colour;
  let drawn = -1; // so that segments within a pixel of one another cost nothing
  for (const [begin, end] of segments) {
    const right = Math.max(end * scale, begin * scale + 2);
    if (right > drawn + 0.5) context.fillRect(begin * scale, 0, right - begin * scale, canvas.clientHeight);
    drawn = Math.max(drawn, right);
  }
  button.addEventListener("click", () => seek((segments.find(([begin]) => begin > position() + 1) || segments[0])[0]));
  canvas.addEventListener("click", ({ offsetX }) => {
    const ms = offsetX / scale;
    const near = segments.find(([begin, end]) => ms >= begin - 6 / scale && ms < end + 6 / scale);
    seek(near && (ms < near[0] || ms >= near[1]) ? near[0] : ms); // a short one is hard to hit
  });
  return row;
}

function layOut() {
  inView.forEach((row) => row.remove());
  inView.clear();
  showRows();
  const room = now.length_ms / Math.max(1, $("axis").clientWidth / 64);
  const step = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600].map((s) => s * 1000).find((ms) => ms >= room) || room;
  const ticks = Array.from({ length: Math.max(1, Math.ceil(now.length_ms / step - 0.4)) }, (_, number) => {
    const tick = element("span", {}, clock(number * step));
    tick.style.left = `${(100 * number * step) / now.length_ms}%`;
    return tick;
  });
  $("axis").replaceChildren(...ticks);
  draw();
}

const position = () => Math.round(video.currentTime * 1000);
function seek(ms) {
  const end = Number.isFinite(video.duration) ? video.duration : now.length_ms / 1000;
  video.currentTime = Math.max(0, Math.min(ms / 1000, end - 0.001));
}
function step(times, direction) {
  const place = direction > 0 ? lower(times, position() + 1) : lower(times, position()) - 1;
  if (times[place] !== undefined) seek(times[place]);
}

function play(address, copy) {
  burned = $("shown").disabled = copy;
  video.src = address;
}
function failed() {
  const why = `This browser cannot play ${now.file}, or the file is no longer where it was`;
  const copy = !burned && now.annotated !== null;
  $("notice").hidden = false;
  $("notice").textContent = copy
    ? `${why}, so this is the annotated copy: its boxes ignore the filter, and it has no sound.`
    : `${why}. Convert it to MP4 (H.264), or run infer without --no-video.`;
  if (copy) play(now.annotated, true);
}

function load(number) {
  const { people, ...rest } = JSON.parse(blocks[number].textContent);
  now = { ...rest, people: people.map(([id, frames, sides, actions]) => ({ id, frames, sides, actions })) };
  now.byFrame = now.times_ms.map(() => []);
  now.people.forEach((person) => person.frames.forEach((at) => now.byFrame[at].push(person)));
  document.title = `${blocks[number].dataset.name}: actions`;
  $("name").textContent = blocks[number].dataset.name;
  $("videos").value = number;
  $("notice").hidden = true;
  rows.scrollTop = 0;
  video.style.aspectRatio = `${now.width} / ${now.height}`;
  const counts = new Map();
  for (const flat of now.people.flatMap(({ actions }) => actions))
    for (let i = 0; i < flat.length; i += 2) counts.set(flat[i], (counts.get(flat[i]) || 0) + 1);
  const items = [...counts].sort((one, other) => other[1] - one[1]).map(([label, count]) => {
    const box = element("input", { type: "checkbox", checked: !off.has(label), value: label });
    const inside = [box, swatch(label), element("b", {}, data.classes[label].name), element("small", {}, count)];
    return element("li", {}, element("label", { title: `at ${count} key frames, of all people` }, ...inside));
  });
  $("classes").replaceChildren(...items);
  play(now.source, false);
  filter();
}

function choose(wanted) {
  for (const box of $("classes").querySelectorAll("input")) {
    box.checked = wanted(box);
    off[box.checked ? "delete" : "add"](Number(box.value));
  }
  filter();
}
function raise(by) {
  score.value = Number(score.value) + by;
  filter();
}

const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
const keys = {
  " ": toggle,
  k: toggle,
  ArrowLeft: () => step(now.times_ms, -1),
  ArrowRight: () => step(now.times_ms, 1),
  j: () => seek(position() - 10000),
  l: () => seek(position() + 10000),
  p: () => step(starts, -1),
  n: () => step(starts, 1),
  "[": () => raise(-0.05),
  "]": () => raise(0.05),
  b: () => $("shown").click(),
  v: () => load((Number($("videos").value) + 1) % blocks.length),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen()),
  "?": () => ($("keys").open ? $("keys").close() : $("keys").showModal()),
};
const onKey = (event) => {
  const own = event.target.closest("input, select, button, summary");
  const taken = own && (event.key === " " || (event.key.startsWith("Arrow") && own.matches("input, select")));
  if (taken || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  keys[event.key]();
};
addEventListener("keydown", onKey, true); // before the video's own controls
score.addEventListener("input", filter);
$("classes").addEventListener("change", () => choose((box) => box.checked));
$("all").addEventListener("click", () => choose(() => true));
$("none").addEventListener("click", () => choose(() => false));
$("shown").addEventListener("change", () => draw());
$("help").addEventListener("click", keys["?"]);
$("full").addEventListener("click", keys.f);
$("videos").addEventListener("change", () => load(Number($("videos").value)));
rows.addEventListener("scroll", showRows);
for (const resized of [rows, boxes]) new ResizeObserver(layOut).observe(resized);
video.addEventListener("error", failed);
video.addEventListener("loadedmetadata", () => (video.videoWidth ? draw() : failed())); // sound alone is not enough
for (const event of ["seeked", "timeupdate"]) video.addEventListener(event, () => draw());
const follow = (_, { mediaTime }) => {
  draw(mediaTime * 1000);
  video.requestVideoFrameCallback(follow);
};
if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(follow); // else only `timeupdate`

score.min = score.value = data.min_score;
blocks.forEach(({ dataset }, number) => $("videos").append(element("option", { value: number }, dataset.name)));
$("choice").hidden = blocks.length < 2;
load(0);
