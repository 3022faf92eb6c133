"use strict";
const $ = (id) => document.getElementById(id);
const [picture, boxes] = [$("picture"), $("boxes")];
let people = [];

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
const words = ({ actions }) => Object.entries(actions).map(([name, score]) => `${name} ${Math.round(100 * score)}%`);

function draw() {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [boxes.clientWidth, boxes.clientHeight];
  [boxes.width, boxes.height] = [width * ratio, height * ratio];
  if (!picture.naturalWidth) return;
  const context = boxes.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "14px system-ui, sans-serif";
  const scale = Math.min(width / picture.naturalWidth, height / picture.naturalHeight); // the picture keeps its shape
  const [wide, tall] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
  const [left, top] = [(width - wide) / 2, (height - tall) / 2];
  people.forEach((person, place) => {
    const [x1, y1, x2, y2] = person.box.map((side, i) => (i % 2 ? top + side * tall : left + side * wide));
    const busy = words(person).length > 0;
    context.strokeStyle = context.fillStyle = busy ? "#ffd24a" : "#bebebe";
    context.lineWidth = 2;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const text = `${place + 1} ${words(person)[0] || ""}`.trim();
    const length = context.measureText(text).width + 8;
    const [x, y] = [Math.max(0, Math.min(x1 - 1, width - length)), y1 > 20 ? y1 - 20 : y1];
    context.fillRect(x, y, length, 20);
    context.fillStyle = "#111";
    context.fillText(text, x + 4, y + 15);
  });
}

function show(record) {
  people = record.people;
  document.title = $("name").textContent = record.source;
  $("clock").value = `${new Date(record.time).toLocaleTimeString()} · ${(record.source_ms / 1000).toFixed(2)} s of the source`;
  $("count").textContent = people.length ? `${people.length}` : "nobody";
  $("people").replaceChildren(...people.map((person) => element("li", words(person).join(", ") || "none of the actions")));
  const lags = [["this key frame", record.lag_s.toFixed(2)]];
  for (const [name, value] of Object.entries(record.lags)) lags.push([name, value.toFixed(2)]);
  lags.push(["dropped", `${record.dropped} key frames`]);
  $("lags").replaceChildren(...lags.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  picture.hidden = record.picture === null;
  if (record.picture !== null) picture.src = `data:image/jpeg;base64,${record.picture}`;
  state("live");
}
function state(text) {
  $("state").value = text;
  $("state").className = text === "live" ? "" : "lost";
}

picture.addEventListener("load", draw);
new ResizeObserver(draw).observe(boxes);
const events = new EventSource("events");
events.addEventListener("message", ({ data }) => show(JSON.parse(data)));
events.addEventListener("error", () => state("no connection: has the command ended?"));
