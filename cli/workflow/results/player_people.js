"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const blocks = [...document.querySelectorAll("script.video")];
const [video, boxes, rows, score] = ["video", "boxes", "rows", "score"].map($);
const LABELS = 3; // actions written at a person, or one where the picture is narrow
const NARROW = 480;
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

// Where a person is at a time, in shares of the picture: as `VideoPeople.at`.
function boxAt({ path, sides }, ms) {
  const [next, place] = [now.times_ms, path].map((times) => lower(times, ms + 1e-6));
  const longest = now.times_ms[next] - now.times_ms[next - 1]; // NaN before the first key frame and after the last
  const [from, to] = [Math.max(0, place - 1), Math.min(place, path.length - 1)];
  const gap = path[to] - path[from];
  const part = gap && (ms - path[from]) / gap;
  const moved = gap > longest ? Number(part >= 0.5) : part;
  const side = (i, at) => sides[4 * at + i] / data.units;
  return [0, 1, 2, 3].map((i) => side(i, from) + moved * (side(i, to) - side(i, from)));
}

// The nearest key frame to a time, and who is seen then.
function peopleAt(ms) {
  const { times_ms: times, edges_ms: edges } = now;
  const nearest = Math.min(times.length, Math.max(1, lower(edges, ms + 1e-6))) - 1;
  if (ms < edges[0] || ms >= edges[times.length]) return [nearest, []];
  const everyone = off.size === 0 && score.value === score.min; // else only those who pass the filter
  const seen = now.byFrame[nearest].map((person) => {
    const actions = passing(person.actions[lower(person.frames, nearest)]);
    return { id: person.id, box: boxAt(person, ms), actions };
  });
  return [nearest, seen.filter(({ actions }) => everyone || actions.length)];
}

function draw(ms = video.currentTime * 1000) {
  const [nearest, seen] = peopleAt(ms);
  const context = cleared(boxes);
  const taken = [];
  if (!burned && $("shown").checked) {
    seen.forEach((person) => drawBox(context, person));
    seen.forEach((person) => drawLabels(context, person, taken)); // above all boxes
  }
  $("clock").value = `${clock(ms)} / ${clock(now.length_ms)}`;
  $("needle").style.setProperty("--at", Math.min(1, ms / now.length_ms));
  if (nearest === listed) return;
  listed = nearest;
  const words = (actions) => actions.map(([label, score]) => `${data.classes[label].name} ${percent(score)}`).join(", ");
  $("now").value = seen.map(({ id, actions }) => `${id}: ${words(actions) || "none"}`).join(" · ") || "nobody";
  $("now").style.minHeight = `${$("now").offsetHeight}px`; // what is below does not move up and down all the time
}

// The picture in the canvas, in pixels of the page: left, top, width, height.
function pictureArea() {
  const scale = Math.min(boxes.clientWidth / now.width, boxes.clientHeight / now.height); // the picture keeps its shape
  const [width, height] = [now.width * scale, now.height * scale];
  return [(boxes.clientWidth - width) / 2, (boxes.clientHeight - height) / 2, width, height];
}
function sidesOf(box) {
  const [left, top, width, height] = pictureArea();
  return box.map((side, i) => (i % 2 ? top + side * height : left + side * width));
}

function drawBox(context, { box, actions }) {
  const [x1, y1, x2, y2] = sidesOf(box);
  const colour = actions.length ? data.classes[actions[0][0]].colour : data.no_action;
  for (const [lineWidth, strokeStyle] of [[4, "#0008"], [2, colour]]) {
    Object.assign(context, { lineWidth, strokeStyle });
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
}

// taken: where the labels of others stand, x1, y1, x2, y2.
function drawLabels(context, { id, box, actions }, taken) {
  const [left, top, width, height] = pictureArea();
  const [x1, y1] = sidesOf(box);
  const best = actions.slice(0, width < NARROW ? 1 : LABELS);
  const texts = best.map(([l, s]) => [`${data.classes[l].name} ${percent(s)}`, data.classes[l].colour]);
  if (!texts.length) texts.push(["", data.no_action]);
  texts[0][0] = `${id}  ${texts[0][0]}`;
  const size = Math.max(11, Math.min(18, height / 28));
  Object.assign(context, { font: `600 ${size}px system-ui, sans-serif`, textBaseline: "middle" });
  const line = size * 1.35;
  const tall = line * texts.length;
  const wide = Math.max(...texts.map(([text]) => context.measureText(text).width)) + 8;
  const x = Math.max(left, Math.min(x1, left + width - wide));
  let y = y1 - tall >= top ? y1 - tall : Math.min(y1, top + height - tall);
  const beside = taken.filter(([a1, , a2]) => x < a2 && x + wide > a1);
  const inside = (at) => at >= top && at + tall <= top + height;
  const free = (at) => inside(at) && beside.every(([, b1, , b2]) => at >= b2 || at + tall <= b1);
  const places = [y, ...beside.flatMap(([, b1, , b2]) => [b1 - tall, b2])];
  const far = (at) => Math.abs(at - y) + (at > y ? height : 0); // the nearest place above, or else below
  y = places.sort((one, other) => far(one) - far(other)).find(free) ?? y;
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
