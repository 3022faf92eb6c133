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
  const rowsInAll = `${lines.length} ${lines.length === 1 ? "row" : "rows"}`;
  $("count").textContent = now.people.length ? rowsInAll : "nobody was found";
  $("now").style.minHeight = "";
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
