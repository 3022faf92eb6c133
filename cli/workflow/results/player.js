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
    ? `${why}, so this is the annotated copy: its boxes ignore the filter.`
    : `${why}. Convert it to MP4 (H.264), or run infer without --no-video.`;
  if (copy) play(now.annotated, true);
}

function load(number) {
  const { people, ...rest } = JSON.parse(blocks[number].textContent);
  now = { ...rest, people: people.map(([id, frames, sides, actions, path]) => ({
    id, frames, sides, actions, path: path || frames.map((at) => rest.times_ms[at]),
  })) };
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
  document.querySelector("main").classList.toggle("plain", !items.length); // nothing to filter
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
