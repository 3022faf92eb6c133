const data = JSON.parse(document.getElementById("data").textContent);
document.documentElement.classList.add("scripted");

function capacityChart({ x, map, lower, upper, chosen }) {
  const values = [...map, ...(lower || []), ...(upper || []), chosen.map];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  // At least one point of mAP, so that a flat curve looks flat.
  const pad = Math.max((high - low) * 0.08, (1 - (high - low)) / 2);
  [low, high] = [Math.max(low - pad, 0), Math.min(high + pad, 100)];
  const nearest = (capacity) =>
    x.reduce((found, value, i) => (Math.abs(value - capacity) < Math.abs(x[found] - capacity) ? i : found), 0);
  const last = x[x.length - 1];
  const marked = chosen.capacity >= x[0] && chosen.capacity <= last;
  return {
    name: "mAP over capacity",
    x: { label: "capacity (rows kept of each key frame)", min: x[0], max: last, log: last > 10 * x[0] },
    y: { label: "mAP (points of 100)", min: low, max: high },
    series: [{ name: "mAP", points: x.map((value, i) => [value, map[i]]) }],
    band: lower && x.map((value, i) => [value, lower[i], upper[i]]),
    mark: marked && { x: chosen.capacity, y: chosen.map, text: `${chosen.map.toFixed(2)} at ${chosen.capacity}` },
    read: (capacity) => {
      const i = nearest(capacity);
      const ties = lower ? `, ${lower[i].toFixed(2)} to ${upper[i].toFixed(2)} over the orders of equal scores` : "";
      return [x[i], `capacity ${x[i]}: mAP ${map[i].toFixed(2)}${ties}`];
    },
  };
}

// Steps as points: each precision holds up to its recall, and after the last one nothing is found.
function steps({ recall, precision }) {
  const points = [[0, precision.length ? 100 * precision[0] : 0]];
  recall.forEach((value, i) => {
    points.push([100 * value, 100 * precision[i]]);
    points.push([100 * value, i + 1 < recall.length ? 100 * precision[i + 1] : 0]);
  });
  return points;
}

function curveChart(number) {
  const curve = data.curves.chosen[number];
  const threshold = data.best_f1[number];
  return {
    name: `precision over recall of ${data.classes[number]}`,
    x: { label: "recall (points of 100)", min: 0, max: 100 },
    y: { label: "precision (points of 100)", min: 0, max: 100 },
    series: [
      { name: "at the reported capacity", points: steps(curve) },
      { name: "at capacity 50", points: steps(data.curves.at_50[number]) },
    ],
    mark: threshold && { x: 100 * threshold.recall, y: 100 * threshold.precision, text: "best F1", above: true },
    read: (recall) => {
      const i = curve.recall.findIndex((value) => 100 * value >= recall);
      if (i < 0) return [recall, `recall ${recall.toFixed(1)}: not reached`];
      const [precision, score] = [100 * curve.precision[i], curve.score[i]];
      return [recall, `recall ${recall.toFixed(1)}: precision ${precision.toFixed(1)} with scores from ${score.toPrecision(3)} on`];
    },
  };
}

function open(body, wanted) {
  const button = body.querySelector("button");
  button.setAttribute("aria-expanded", String(wanted));
  body.querySelector(".detail").hidden = !wanted;
  const host = body.querySelector("[data-curve]");
  if (wanted && host && !host.firstChild) keepDrawn(host, curveChart(Number(host.dataset.curve)));
}

function sortBy(table, position) {
  const heads = [...table.tHead.rows[0].cells];
  // Names start with A, figures of which little is bad (AP, F1) with the worst, counts with the largest.
  const first = heads[position].dataset.first;
  const now = heads[position].getAttribute("aria-sort");
  const direction = now ? (now === "ascending" ? "descending" : "ascending") : first;
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[position].setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const value = (body) => body.rows[0].cells[position].dataset.value;
  const ordered = [...table.tBodies].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (position === 0 ? a.localeCompare(b) : a - b);
  });
  table.append(...ordered);
}

const table = document.querySelector("table.classes");
const bodies = [...table.tBodies];
bodies.forEach((body) => {
  open(body, false);
  body.rows[0].addEventListener("click", () => {
    open(body, body.querySelector("button").getAttribute("aria-expanded") === "false");
  });
});
[...table.tHead.rows[0].cells].forEach((head, position) => {
  head.querySelector("button").addEventListener("click", () => sortBy(table, position));
});
open(bodies[0], true);

const choices = [...document.querySelectorAll("[name=point]")];
function showPoint() {
  const chosen = choices.find((choice) => choice.checked).value;
  document.querySelectorAll("[data-point]").forEach((part) => (part.hidden = part.dataset.point !== chosen));
}
choices.forEach((choice) => choice.addEventListener("change", showPoint));
showPoint();

const capacity = document.getElementById("capacity");
if (data.capacity.x.length > 1) keepDrawn(capacity, capacityChart(data.capacity));
else capacity.textContent = "One capacity makes no curve.";
