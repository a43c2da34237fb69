function difference(value) {
  if (!value) return make("td", "-");
  const half = value.half === null ? "" : " \u00b1 " + shown(value.half);
  const text = (value.mean >= 0 ? "+" : "") + shown(value.mean) + half;
  return make("td", text, { className: value.sure > 0 ? "up" : value.sure < 0 ? "down" : "" });
}
const mean = (one) => one ? one.mean : null;
const COLUMNS = [
  [data.across, (r) => r.name, (r) => make("td", r.name)],
  ["last " + data.headline, (r) => r.mean, (r) => make("td", shown(r.mean))],
  ["deviation", (r) => r.deviation, (r) => make("td", shown(r.deviation))],
  ["seeds", (r) => r.runs.length, (r) => make("td", r.runs.length)],
  ["equal steps", (r) => mean(r.steps_difference), (r) => difference(r.steps_difference)],
  ["equal seconds", (r) => mean(r.seconds_difference), (r) => difference(r.seconds_difference)],
  ["steps", (r) => r.steps, (r) => make("td", r.steps)],
  ["seconds", (r) => r.seconds, (r) => make("td", shown(r.seconds, 0))],
  ["GiB", (r) => r.gib, (r) => make("td", shown(r.gib, 2))],
  ["calibration error", (r) => r.ece, (r) => make("td", shown(r.ece))],
  ["sure labels right", (r) => r.precision, (r) => make("td", shown(r.precision))],
  ["sure share", (r) => r.share, (r) => make("td", shown(r.share))],
];
let sorted = 1, down = true;
function table() {
  const rows = data.groups[byId("group").value].rows, part = byId("filter").value.toLowerCase();
  const key = COLUMNS[sorted][1], sign = down ? -1 : 1;
  const order = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * sign;
  const some = rows.filter((row) => row.name.toLowerCase().includes(part));
  some.sort((a, b) => order(key(a), key(b)));
  byId("body").replaceChildren(...some.map((row) => {
    const line = make("tr", null, { className: "row", tabIndex: 0 });
    line.append(...COLUMNS.map((column) => column[2](row)));
    line.onclick = () => toggle(line, row);
    line.onkeydown = (event) => { if (event.key === "Enter") toggle(line, row); };
    return line;
  }));
  byId("head").replaceChildren(...COLUMNS.map((column, index) => {
    const mark = index === sorted ? (down ? " \u25be" : " \u25b4") : "";
    const button = make("button", column[0] + mark);
    button.onclick = () => { down = index === sorted ? !down : index > 0; sorted = index; table(); };
    const cell = make("th");
    cell.append(button);
    return cell;
  }));
  const told = data.groups[byId("group").value].resolution;
  byId("resolution").textContent = told === null ? "" :
    "A difference of " + shown(told) + " points shows in half of such tables.";
  byId("plots").replaceChildren(intervals(some), scatter(some));
}
function toggle(line, row) {
  if (line.nextSibling && line.nextSibling.className === "detail") { line.nextSibling.remove(); return; }
  const cell = make("td", null, { colSpan: COLUMNS.length }), part = make("div", null, { className: "part" });
  const detail = make("tr", null, { className: "detail" });
  part.append(curves(row), classes(row));
  if (row.picture) part.append(make("img", null, { src: data.truth, alt: "images and labels" }), make("br"),
    make("img", null, { src: row.picture, alt: "what " + row.name + " predicts" }));
  for (const run of row.runs) {
    const text = [run.name, shown(run.figure), "settings " + run.settings, "labelled list " + run.labeled,
      "commit " + run.commit, run.machine].join(", ");
    const told = make("p");
    told.append(make("small", text));
    part.append(told);
  }
  cell.append(part);
  detail.append(cell);
  line.after(detail);
}
function curves(row) {
  const series = row.runs.map((run, index) => ({ name: run.name, points: run.curve, color: COLORS[index % COLORS.length] }));
  return lines(data.headline + " over steps, a line a seed", series);
}
function average(runs, of) {
  const found = runs.map(of).filter((value) => value !== null && value !== undefined);
  return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
}
function classes(row) {
  const box = make("div", null, { className: "wide" }), grid = make("table");
  const base = data.groups[byId("group").value].rows.find((one) => one.name === data.baseline);
  const head = make("tr"), steps = (row.runs[0].pseudo || []).map((one) => one.step);
  head.append(...["class", data.headline, "baseline", ...steps.map((s) => "sure labels right, " + s)]
    .map((text) => make("th", text)));
  grid.append(head);
  for (const name of Object.keys(row.runs[0].classes)) {
    const line = make("tr");
    line.append(make("td", name), make("td", shown(average(row.runs, (run) => run.classes[name]))),
      make("td", base ? shown(average(base.runs, (run) => run.classes[name])) : "-"));
    for (const step of steps)
      line.append(make("td", shown(average(row.runs, (run) => {
        const found = run.pseudo.find((one) => one.step === step);
        return found ? found.of[name] : null;
      }))));
    grid.append(line);
  }
  box.append(grid);
  return box;
}
function intervals(rows) {
  const some = rows.filter((row) => row.steps_difference);
  if (!some.length) return make("span");
  const low = (d) => d.mean - (d.half || 0), high = (d) => d.mean + (d.half || 0);
  const ends = some.flatMap((row) => [low(row.steps_difference), high(row.steps_difference)]);
  const [x0, x1] = range([...ends, 0]), height = 40 + 22 * some.length, width = 420;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  const at = (value) => 130 + (value - x0) / (x1 - x0 || 1) * (width - 150);
  const title = "difference to " + data.baseline + ", equal steps, 95 %";
  svg.append(drawn("text", { x: 8, y: 16, "font-size": 13 }, title));
  svg.append(drawn("line", { x1: at(0), x2: at(0), y1: 24, y2: height - 8, stroke: "#888" }));
  some.forEach((row, index) => {
    const d = row.steps_difference, y = 38 + 22 * index, x = at(d.mean);
    const color = d.sure > 0 ? "#06702b" : d.sure < 0 ? "#a3100f" : "#555";
    const ends = { x1: at(low(d)), x2: at(high(d)), y1: y, y2: y };
    svg.append(drawn("text", { x: 8, y: y + 4, "font-size": 12 }, row.name));
    svg.append(drawn("line", { ...ends, stroke: color, "stroke-width": 2 }));
    svg.append(drawn("circle", { cx: x, cy: y, r: 4, fill: color }));
    svg.append(drawn("text", { x, y: y - 6, "font-size": 10, "text-anchor": "middle" }, shown(d.mean)));
  });
  return svg;
}
function scatter(rows) {
  if (!rows.length) return make("span");
  const last = Math.max(...rows.map((row) => row.seconds)), title = data.headline + " over seconds";
  const [svg, at] = frame(420, 260, [0, last], range(rows.map((row) => row.mean)), title);
  rows.forEach((row, index) => {
    const [x, y] = at(row.seconds, row.mean);
    svg.append(drawn("circle", { cx: x, cy: y, r: 4, fill: COLORS[index % COLORS.length] }));
    const end = x > 300, anchor = end ? "end" : "start";
    const where = { x: x + (end ? -6 : 6), y: y - 5, "font-size": 11, "text-anchor": anchor };
    svg.append(drawn("text", where, row.name));
  });
  return svg;
}
function overLabels({ title, lines: some }) {
  const box = make("div"), colored = some.map((one, index) => ({ ...one, color: COLORS[index % COLORS.length] }));
  const x = range(some.flatMap((one) => one.points.map((point) => point[0])));
  box.append(lines([data.headline + " over labelled", title].filter(Boolean).join(", "), colored, { x }), legend(colored));
  return box;
}
byId("about").textContent = data.about;
byId("labels").append(...data.labels.map(overLabels));
byId("notes").append(...data.notes.map((text) => make("li", text)));
byId("group").append(...data.groups.map((group, index) => make("option", group.title, { value: index })));
byId("group").onchange = table;
byId("filter").oninput = table;
table();
