const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const COLORS = ["#06c", "#d1495b", "#2a9d5b", "#8a4fbf", "#c77d00", "#00808a"];
const SVG = "http://www.w3.org/2000/svg";
function make(name, text, more) {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  return Object.assign(node, more || {});
}
function drawn(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const shown = (value, digits = 1) => value === null || value === undefined ? "-" : value.toFixed(digits);
// Round numbers, three to six of them, that hold a range.
function ticks([low, high]) {
  const raw = (high - low || Math.abs(high) || 1) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * .999);
  const first = Math.floor(low / step + 1e-9), last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: last - first + 1 }, (_, k) => [step * (first + k), digits]);
}
function frame(width, height, x, y, title) {
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  svg.append(drawn("title", {}, title), drawn("text", { x: 8, y: 16, "font-size": 13 }, title));
  const left = 48, right = width - 20, top = 28, bottom = height - 28;
  const [x0, x1] = x[1] > x[0] ? x : [x[0] - 1, x[1] + 1], marks = ticks(y);
  const y0 = marks[0][0], y1 = marks[marks.length - 1][0];
  const at = (a, b) => [
    left + (a - x0) / (x1 - x0) * (right - left),
    bottom - (b - y0) / (y1 - y0) * (bottom - top),
  ];
  const write = (x, y, anchor, text) =>
    svg.append(drawn("text", { x, y, "font-size": 11, "text-anchor": anchor }, text));
  for (const [value, digits] of marks) {
    const place = at(x0, value)[1];
    svg.append(drawn("line", { x1: left, x2: right, y1: place, y2: place, stroke: "#ddd" }));
    write(left - 6, place + 4, "end", shown(value, digits));
  }
  for (const value of [x0, x1]) write(at(value, y0)[0], bottom + 16, "middle", shown(value, 0));
  return [svg, at];
}
const range = (values) => [Math.min(...values), Math.max(...values)];
function lines(title, series, options) {
  const all = series.flatMap((one) => one.points.filter((p) => p[1] !== null));
  if (!all.length) return make("span");
  const { width = 420, height = 220, x = [0, Math.max(...all.map((p) => p[0]))], y = range(all.map((p) => p[1])) } =
    options || {};
  const [svg, at] = frame(width, height, x, y, title);
  for (const { points, color, dash } of series) {
    const known = points.filter((p) => p[1] !== null);
    const line = known.map((p) => at(p[0], p[1]).join(",")).join(" ");
    const look = { points: line, fill: "none", stroke: color, "stroke-width": 2 };
    svg.append(drawn("polyline", dash ? { ...look, "stroke-dasharray": dash } : look));
    if (known.length < 30) for (const p of known) {
      const [cx, cy] = at(p[0], p[1]);
      svg.append(drawn("circle", { cx, cy, r: 2.5, fill: color }));
    }
  }
  return svg;
}
function legend(entries) {
  const list = make("ul", null, { className: "legend" });
  list.append(...entries.map(({ name, color, kind }) => {
    const entry = make("li"), mark = make("span", null, { className: "swatch " + (kind || "") });
    if (color) mark.style.background = color;
    entry.append(mark, name);
    return entry;
  }));
  return list;
}
