"use strict";
// One line chart with axes: drawn at the width of its place, again when that changes, with a readout under the pointer.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 58, right: 16, top: 14, bottom: 44 };

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function evenTicks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) ticks.push(n * step);
  return ticks;
}

function logTicks(low, high, wanted) {
  const factors = Math.log10(high / low) * 3 > wanted ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = 1; power <= high; power *= 10)
    for (const factor of factors) if (factor * power >= low && factor * power <= high) ticks.push(factor * power);
  return ticks;
}

// As many decimals as tell neighbouring ticks apart.
function tickTexts(ticks) {
  const step = ticks.length > 1 ? Math.min(...ticks.slice(1).map((tick, i) => tick - ticks[i])) : 1;
  return ticks.map((tick) => tick.toFixed(Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))));
}

function scale(axis, from, to) {
  const shape = axis.log ? Math.log10 : (value) => value;
  const low = shape(axis.min);
  const span = shape(axis.max) - low || 1;
  return (value) => from + ((shape(value) - low) / span) * (to - from);
}

function linePath(points, x, y, stepped) {
  let path = "";
  points.forEach(([px, py], i) => {
    if (stepped && i > 0) path += `V${y(py).toFixed(2)}`;
    path += `${i ? "L" : "M"}${x(px).toFixed(2)},${y(py).toFixed(2)}`;
  });
  return path;
}

// spec: {name, x, y, series, band, mark, read}. x, y: {label, min, max, log}. series: [{name, points, stepped}], drawn in
// the styles s0, s1. band: [[x, low, high]]. mark: {x, y, text, above}. read: from x to the readout's text.
function drawChart(host, spec) {
  const width = Math.max(host.clientWidth - 18, 240);
  const height = Math.round(Math.min(Math.max(width * 0.5, 230), 340));
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const x = scale(spec.x, MARGIN.left, right);
  const y = scale(spec.y, bottom, MARGIN.top);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": spec.name });

  const rungs = evenTicks(spec.y.min, spec.y.max, height / 50);
  tickTexts(rungs).forEach((text, i) => {
    const value = rungs[i];
    svg.append(element("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, text));
  });
  const marks = (spec.x.log ? logTicks : evenTicks)(spec.x.min, spec.x.max, width / 70);
  tickTexts(marks).forEach((text, i) => {
    const value = marks[i];
    svg.append(element("line", { class: "axis", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 5 }));
    svg.append(element("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, text));
  });
  svg.append(element("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }));
  svg.append(element("text", { x: (MARGIN.left + right) / 2, y: height - 6, "text-anchor": "middle" }, spec.x.label));
  const middle = (MARGIN.top + bottom) / 2;
  const turned = { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` };
  svg.append(element("text", turned, spec.y.label));

  if (spec.band) {
    const upper = linePath(spec.band.map(([px, , high]) => [px, high]), x, y, false);
    const lower = linePath(spec.band.map(([px, low]) => [px, low]).reverse(), x, y, false);
    svg.append(element("path", { class: "band", d: `${upper}${lower.replace("M", "L")}Z` }));
  }
  // The first series lies on top.
  spec.series.forEach(({ points, stepped }, i) =>
    svg.append(element("path", { class: `s${i}`, d: linePath(points, x, y, stepped) })));
  if (spec.mark) {
    const at = { x: x(spec.mark.x), y: y(spec.mark.y) };
    svg.append(element("circle", { class: "mark", cx: at.x, cy: at.y, r: 5 }));
    const anchor = at.x + 9 * spec.mark.text.length > right ? "end" : "start";
    const beside = {
      class: "mark",
      x: at.x + (anchor === "end" ? -9 : 9),
      y: spec.mark.above ? Math.max(at.y - 8, 11) : Math.min(at.y + 20, bottom - 6),
    };
    svg.append(element("text", { ...beside, "text-anchor": anchor }, spec.mark.text));
  }
  host.replaceChildren(svg, ...legend(spec.series), readout(svg, spec, x, [MARGIN.left, right, bottom]));
}

function legend(series) {
  if (series.length < 2) return [];
  const list = document.createElement("ul");
  list.className = "key";
  series.forEach(({ name }, i) => {
    const item = document.createElement("li");
    const line = element("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" });
    line.append(element("path", { class: `s${i}`, d: "M0,5H28" }));
    item.append(line, name);
    list.append(item);
  });
  return [list];
}

function readout(svg, spec, x, [left, right, bottom]) {
  const text = document.createElement("p");
  text.className = "readout";
  text.textContent = "\u00a0";
  const cursor = element("line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - frame.left - left) / (right - left), 0), 1);
    const { min, max, log } = spec.x;
    const [at, said] = spec.read(log ? min * (max / min) ** share : min + share * (max - min));
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    cursor.setAttribute("visibility", "visible");
    text.textContent = said;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    text.textContent = "\u00a0";
  });
  return text;
}

// Draws now and whenever the width changes, as when a phone is turned.
function keepDrawn(host, spec) {
  let width = -1;
  const draw = () => {
    if (host.clientWidth > 0 && host.clientWidth !== width) {
      width = host.clientWidth;
      drawChart(host, spec);
    }
  };
  draw();
  // In the next frame, since drawing changes the sizes that are being reported.
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(host);
}
