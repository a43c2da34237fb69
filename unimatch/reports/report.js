const [first] = data.runs, several = data.runs.length > 1;
const color = (index) => COLORS[index % COLORS.length];
const percent = (value, digits = 1) => value === null || value === undefined ? "-" : shown(value, digits) + " %";
const signed = (value) => value === null || value === undefined ? "-" : (value >= 0 ? "+" : "") + shown(value);
const base = data.runs.find((run) => run.name === data.baseline);
const rare = (number) => Boolean(data.fed.rare && data.fed.rare[number]);
const missing = (text) => make("p", text, { className: "missing" });
const say = (text) => make("p", text);

function section(id, title, ...parts) {
  const part = make("section", null, { id });
  part.append(make("h2", title), ...parts);
  byId("main").append(part);
  const entry = make("li");
  entry.append(make("a", title, { href: "#" + id }));
  byId("contents").append(entry);
}
function cell(content, name = "td") {
  const node = make(name);
  node.append(content instanceof Node ? content : String(content));
  return node;
}
function grid(caption, head, rows) {
  const part = make("div"), box = make("div", null, { className: "wide", tabIndex: 0 }), table = make("table");
  for (const node of [box, table]) node.setAttribute("aria-label", caption);
  box.setAttribute("role", "region");
  const top = make("thead"), line = make("tr"), body = make("tbody");
  line.append(...head.map((text) => Object.assign(cell(text, "th"), { scope: "col" })));
  top.append(line);
  for (const [name, ...cells] of rows) {
    const row = make("tr");
    row.append(Object.assign(cell(name, "th"), { scope: "row" }), ...cells.map((one) => cell(one)));
    body.append(row);
  }
  table.append(top, body);
  box.append(table);
  part.append(make("p", caption, { className: "caption" }), box);
  return part;
}
function more(title, ...parts) {
  const details = make("details");
  details.append(make("summary", title), ...parts);
  return details;
}
function plots(...some) {
  const box = make("div", null, { className: "plots" });
  box.append(...some);
  return box;
}
const runLegend = (some = data.runs) => !several ? [] :
  [legend(some.map((run) => ({ name: run.name, color: color(data.runs.indexOf(run)) })))];
const ofRuns = (title, what, options) =>
  lines(title, data.runs.map((run, k) => ({ points: run[what], color: color(k) })), options);
function className(number) {
  const node = make("span"), mark = make("span", null, { className: "swatch" });
  if (number === data.background) mark.classList.add("clear");
  else mark.style.background = data.colors[number];
  node.append(mark, data.names[number]);
  if (rare(number)) node.append(make("span", "rare", { className: "rare" }));
  return node;
}
function difference(value) {
  const name = value > 0 ? "up" : value < 0 ? "down" : "";
  return make("span", signed(value), { className: name });
}
const stage = (run) => run.total === null ? run.done + " steps" :
  run.done < run.total ? `${run.done} of ${run.total} steps: not finished` : `${run.done} steps`;

function tiles(entries) {
  const list = make("dl", null, { className: "tiles" });
  list.append(...entries.map(([name, value]) => {
    const box = make("div");
    box.append(make("dt", name), make("dd", value));
    return box;
  }));
  return list;
}
function result() {
  const parts = [];
  if (first.evaluated) {
    const entries = [["last " + data.headline, percent(first.last, 2)],
      ["best, by hindsight", `${percent(first.best, 2)} (step ${first.best_step})`], ["trained", stage(first)]];
    if (first.against) entries.push(["against " + data.baseline, signed(first.against.points) + " points"]);
    parts.push(tiles(entries), say(`Measured on ${first.images} images of ${first.val}${first.over}.`));
  } else {
    const why = first.val === null ? "it was trained without data.val, so no figure says whether it worked."
      : "it was not evaluated yet.";
    parts.push(tiles([["trained", stage(first)]]), missing(`${first.name}: ${why}`));
  }
  if (several) parts.push(grid("The runs", ["run", "method", "seed", "steps", "last " + data.headline, "best (step)",
    ...(base ? ["against " + base.name] : [])], data.runs.map((run) => [run.name, run.method, run.seed, stage(run),
    run.evaluated ? percent(run.last, 2) : "not evaluated", run.evaluated ? `${percent(run.best, 2)} (${run.best_step})` : "-",
    ...(base ? [run.against ? difference(run.against.points) : "-"] : [])])));
  for (const run of data.runs) if (run.against && !run.against.same)
    parts.push(missing(`${base.name} was not evaluated after the ${run.done} steps of ${run.name}: ${run.name} is held ` +
      `against its step ${run.against.step}.`));
  if (base) parts.push(say("A difference between single runs holds the luck of their seeds too; several seeds, as in a " +
    "board, say how much it is worth."));
  parts.push(...data.notes.map(say), ...runLegend(), plots(ofRuns(data.headline + ", %, over steps", "curve"),
    ofRuns("training loss over steps", "loss")));
  const steps = [...new Set(data.runs.flatMap((run) => run.curve.map((p) => p[0])))].sort((a, b) => a - b);
  if (steps.length) parts.push(more("The curve as a table", grid(data.headline + ", %, after steps",
    ["run", ...steps], data.runs.map((run) => [run.name, ...steps.map((step) =>
      shown((run.curve.find((p) => p[0] === step) || [])[1], 2))]))));
  if (first.figures) parts.push(more("All figures of the last evaluation",
    grid(first.name, ["figure", "value"], first.figures)));
  section("result", "Did it work?", ...parts);
}
function classes() {
  const parts = [], told = data.runs.filter((run) => run.classes), measured = data.measured[first.name];
  const others = first.tables ? Object.keys(first.tables).filter((name) => name !== first.table) : [];
  const head = ["class", ...(data.fed.shares ? ["share of labels"] : []),
    ...told.flatMap((run) => [(several ? run.name + ": " : "") + run.table, ...(run.against ? ["difference"] : [])]),
    ...others, ...(measured ? ["precision", "recall"] : [])];
  if (!told.length) parts.push(missing("No run was evaluated yet, so there are no figures by class."));
  if (told.length || measured) parts.push(grid("Figures by class, in percent where no unit is written", head, data.names.map((name, number) => [
    className(number), ...(data.fed.shares ? [percent(100 * data.fed.shares[number], 2)] : []),
    ...told.flatMap((run) => [shown(run.classes[name]), ...(run.against ? [difference(run.against.classes[name])] : [])]),
    ...others.map((table) => first.tables[table][name] || "-"),
    ...(measured ? [measured.precision, measured.recall].map((list) =>
      list[number] === null ? "-" : shown(100 * list[number])) : [])])));
  if (data.fed.rare && data.fed.rare.some(Boolean)) parts.push(say("Rare: less than 1 % of the labelled pixels."));
  for (const run of data.runs) if (data.missing[run.name]) parts.push(missing(`${run.name}: ${data.missing[run.name]}`));
  const some = Object.entries(data.measured);
  if (some.length) {
    const place = make("div");
    const show = (name) => place.replaceChildren(...confusion(name, data.measured[name]));
    if (some.length > 1) parts.push(choice("confusion of", some.map(([name]) => name), some[0][0], show));
    show(some[0][0]);
    parts.push(place);
  }
  section("classes", "For which classes?", ...parts);
}
function confusion(name, one) {
  const caption = `Confusion of ${name}, step ${one.step}: of the pixels of a true class (row), the percent that were ` +
    `given each class (column); ${one.samples} of ${one.of} images of ${data.on}`;
  const box = grid(caption, ["true \\ predicted", ...data.names.map((label) => make("span", label))],
    data.names.map((_, row) => [className(row), ...one.confusion[row].map((share, column) => {
      const text = make("span", one.pixels[row] ? shown(100 * share, 0) : "-");
      return Object.assign(text, { share, right: row === column });
    })]));
  box.querySelector("table").className = "matrix";
  for (const text of box.querySelectorAll("td > span")) {
    const cell = text.parentNode, strength = Math.min(1, text.share);
    cell.style.background = `rgba(${text.right ? "0, 102, 204" : "190, 40, 40"}, ${strength})`;
    if (strength > .55) cell.style.color = "#fff";
    if (text.share < .005) cell.style.color = "#767676";
  }
  const mistakes = one.confusion.flatMap((list, row) => list.map((share, column) => ({ share, row, column })))
    .filter((m) => m.row !== m.column && m.share > 0)
    .sort((a, b) => b.share * one.pixels[b.row] - a.share * one.pixels[a.row]).slice(0, 5);
  const list = make("ul");
  list.append(...mistakes.map((m) => make("li", `${data.names[m.row]} taken for ${data.names[m.column]}: ` +
    `${percent(100 * m.share)} of its pixels`)));
  return mistakes.length ? [box, make("h3", "Where most wrong pixels are"), list] : [box];
}
function choice(name, values, chosen, act) {
  const label = make("label", name + " "), select = make("select");
  select.append(...values.map((value) => {
    const [key, text] = Array.isArray(value) ? value : [value, value];
    return make("option", text, { value: key, selected: key === chosen });
  }));
  select.onchange = () => act(select.value);
  label.append(select);
  return label;
}
function images() {
  if (!data.samples.length) {
    const why = data.missing[first.name] || "No image was asked for, or none has a figure.";
    return section("images", "Where does it fail?", missing(why));
  }
  const names = Object.keys(data.samples[0].layers), pictures = names.filter((n) => n === "image" || n.startsWith("date "));
  const text = (name) => {
    if (pictures.includes(name) || name === "truth") return name;
    const sure = name.endsWith(" confidence"), run = sure ? name.slice(0, -11) : name;
    const kind = sure ? "confidence" : "prediction";
    return Object.keys(data.measured).length > 1 ? `${kind} of ${run}` : kind;
  };
  const state = { left: "truth", right: first.name }, figures = [];
  const update = () => figures.forEach((one) => one(state));
  const options = names.map((name) => [name, text(name)]);
  const controls = make("div", null, { className: "controls" });
  const strength = make("label", "strength of the colours ");
  const range = make("input", null, { type: "range", min: 0, max: 100, value: 60 });
  const box = make("div");
  const tint = () => box.style.setProperty("--strength", range.value / 100);
  range.oninput = tint;
  strength.append(range);
  controls.append(choice("left of the divide", options, state.left, (name) => { state.left = name; update(); }),
    choice("right of it", options, state.right, (name) => { state.right = name; update(); }), strength);
  for (const [kind, title] of [["worst", "The worst images"], ["best", "The best images"]]) {
    const some = data.samples.filter((one) => one.kind === kind), place = make("div", null, { className: "samples" });
    place.append(...some.map((one) => sample(one, pictures, text, figures)));
    if (some.length) box.append(make("h3", title), place);
  }
  tint();
  update();
  section("images", "Where does it fail?", say("Ranked by the mean IoU of the classes in an image's truth or prediction (of a volume: in a slice's)" +
    `${data.background === null ? "" : ", without " + data.names[data.background]}, of ${first.name}. ` +
    "Drag the divide, or move it with the arrow keys. Confidence: black is 0, white is 1."), controls,
    legend([...data.names.map((name, k) => k === data.background ? { name, kind: "clear" } : { name, color: data.colors[k] }),
      { name: "not labelled", kind: "none" }]), box);
}
function sample(one, pictures, text, figures) {
  const figure = make("figure"), stack = make("div", null, { className: "stack" });
  const shownImage = one.layers[pictures[pictures.length - 1]];
  const under = make("img", null, { src: shownImage, alt: "image " + one.key, draggable: false });
  const left = make("img", null, { draggable: false }), right = make("img", null, { draggable: false });
  const slider = make("input", null, { type: "range", min: 0, max: 100, value: 50 });
  const move = () => stack.style.setProperty("--at", slider.value + "%");
  const drag = (event) => {
    if (!event.buttons) return;
    const area = stack.getBoundingClientRect();
    slider.value = 100 * (event.clientX - area.left) / area.width;
    move();
  };
  stack.onpointermove = stack.onpointerdown = drag;
  slider.oninput = move;
  move();
  figures.push((state) => {
    for (const [node, side] of [[left, "left"], [right, "right"]]) {
      const name = state[side], plain = pictures.includes(name) || name.endsWith(" confidence");
      Object.assign(node, { src: one.layers[name], alt: `${side}: ${text(name)} of ${one.key}` });
      node.className = side + (plain ? "" : " map");
    }
    slider.setAttribute("aria-label", `divide of ${one.key}: ${text(state.left)}, ${text(state.right)}`);
  });
  stack.append(under, left, right, make("i"));
  figure.append(stack, slider, make("figcaption", `${one.key}: mean IoU ${percent(100 * one.value)}, ` +
    `${percent(100 * one.accuracy)} of its pixels right, mean confidence ${percent(100 * one.conf)}`));
  return figure;
}
function trust() {
  const parts = [], some = data.runs.map((run, k) => [run, k]).filter(([run]) => data.measured[run.name]);
  const curves = some.map(([run, k]) => ({ color: color(k),
    points: data.measured[run.name].bins.map(([, right, conf]) => [100 * conf, 100 * right]) }));
  const even = { color: "#888", dash: "4 4", points: [[0, 0], [100, 100]] };
  const square = { x: [0, 100], y: [0, 100], width: 320, height: 300 };
  parts.push(make("h3", "Calibration"));
  if (some.length) parts.push(say("Of pixels predicted with a confidence, the share that is right. On the dashed line " +
    "confidence can be taken at its word; below it the network is too sure. Expected calibration error: " +
    some.map(([run]) => `${several ? run.name + " " : ""}${percent(100 * data.measured[run.name].ece)}`).join(", ") + "."));
  else parts.push(missing(data.missing[first.name]));
  parts.push(...runLegend(), plots(some.length ? lines("right, %, over confidence, %", [even, ...curves], square) : "",
    ofRuns("calibration error, %, over steps", "ece")), make("h3", "Pseudo-labels"));
  for (const run of data.runs) parts.push(...pseudo(run));
  const kept = data.runs.filter((run) => run.kept.length);
  if (kept.length) parts.push(...runLegend(kept), plots(ofRuns("pixels that the method keeps, %, over steps", "kept")));
  section("trust", "Can it be trusted?", ...parts);
}
function pseudo(run) {
  if (!run.pseudo.length) return [missing(`${run.name}: ` + (!run.unlabeled ?
    "it learns from labelled images alone." : run.pseudo_wanted ? "no evaluation has measured pseudo-labels yet." :
    "pseudo-labels were not measured. Where unlabelled images carry masks, evaluation.pseudo_labels: 24 does it."))];
  const steps = run.pseudo.map((one) => one.step), last = run.pseudo[run.pseudo.length - 1];
  const of = (what) => run.pseudo.map((one) => [one.step, one[what]]);
  const series = [{ name: "right", color: color(0), points: of("precision") }, { name: "sure", color: color(1), points: of("share") }];
  const table = (title, what) => grid(`${run.name}: ${title}`, ["class", ...steps.map((s) => "step " + s)],
    data.names.map((name, k) => [className(k), ...run.pseudo.map((one) => shown(one[what][name], what === "yield_of" ? 2 : 1))]));
  const tables = more(`${run.name}: sure labels by class`,
    table("precision: right, in percent of the sure pixels given to the class", "precision_of"),
    table("yield: sure pixels given to the class, in percent of all pixels", "yield_of"));
  tables.open = run === first;
  return [say(`${run.name}, after step ${last.step}: ${percent(last.share)} of the pixels of unlabelled images are ` +
    `predicted with a confidence of 0.9 or more, and ${percent(last.precision)} of those are right.`),
    plots(lines(`${run.name}: sure labels, %, over steps`, series, { y: [0, 100] })),
    legend([{ name: "right, of the sure pixels", color: color(0) }, { name: "sure, of all pixels", color: color(1) }]),
    tables];
}
function fed() {
  if (data.fed.missing) return section("fed", "What was it fed?", missing(data.fed.missing));
  const parts = [grid("Samples of " + first.name, ["list", "samples", "hash"], Object.entries(data.fed.samples).map(
    ([name, count]) => ["data." + name, count, first.lists[name] || "-"]))];
  if (data.fed.shares) {
    const most = Math.max(...data.fed.shares);
    const shares = grid("Classes of the labelled list, by pixels", ["class", "share", ""], data.fed.shares.map((share, k) => {
      const bar = make("span", null, { className: "bar" });
      bar.style.width = 12 * share / most + "em";
      return [className(k), percent(100 * share, 2), bar];
    }));
    shares.querySelector("table").className = "bars";
    parts.push(shares);
  } else parts.push(missing("The labelled list is long, so its masks were not read for the shares of classes."));
  for (const run of data.runs) parts.push(say(`${run.name}: ` + (run.skipped === null ? "no checkpoint says yet whether " +
    "samples were skipped." : run.skipped ? `${run.skipped} unreadable samples were replaced by others.` : "no sample was skipped.")));
  const views = data.fed.views;
  if (views.missing) parts.push(missing("Views: " + views.missing));
  else for (const [name, sheet] of Object.entries(views.sheets)) {
    const box = make("div", null, { className: "pictures", tabIndex: 0 }), kind = name.replace("labeled", "labelled");
    const title = `The first step's ${kind} images as the network saw them, and what it says of them now`;
    box.append(make("img", null, { src: sheet, alt: title }));
    parts.push(make("h3", title), box);
  }
  section("fed", "What was it fed?", ...parts);
}
function cost() {
  const known = data.runs.filter((run) => run.cost), hours = (s) => s === null ? "-" :
    s < 120 ? shown(s) + " s" : s < 7200 ? shown(s / 60) + " min" : shown(s / 3600) + " h";
  const parts = [];
  if (known.length) parts.push(grid("By the clock of the training itself", ["run", "steps", "evaluations", "time of the CPU",
    "images a second", "waiting for data", "memory at most", "processes", "machine"], known.map((run) => [run.name,
    hours(run.cost.steps_s), hours(run.cost.evaluation_s), hours(run.cost.cpu_s), shown(run.cost.images_per_s),
    percent(100 * run.cost.data_wait), shown(run.cost.memory_gib, 2) + " GiB", run.cost.world || "-", run.code.machine || "not recorded"])));
  for (const run of data.runs) if (!run.cost) parts.push(missing(`${run.name}: its log has no step, so nothing is known of its cost.`));
  section("cost", "What did it cost?", ...parts);
}
function repeat() {
  const parts = [];
  for (const run of data.runs) {
    if (several) parts.push(make("h3", run.name));
    parts.push(run.command ? make("pre", run.command, { tabIndex: 0 }) : missing("The command was not recorded."),
      grid("Where it is from", ["what", "value"], [["settings, hash", run.settings],
        ...Object.entries(run.lists).map(([name, hash]) => [`data.${name}, hash of its keys`, hash]),
        ...Object.entries(run.code).map(([name, value]) => [name, value || "not recorded"]), ["folder", run.folder]]),
      more("Configuration", make("pre", run.config, { tabIndex: 0 })),
      more("Versions", grid("Versions", ["package", "version"], Object.entries(run.versions))));
  }
  section("repeat", "How to repeat it", ...parts);
}
byId("title").textContent = data.title;
byId("about").textContent = `${first.task}, ${first.encoder}, ${stage(first)}; written ${data.written}` +
  (data.runs.some((run) => run.total !== null && run.done < run.total) ? ". A run goes on: load the page again for news." : "");
for (const part of [result, classes, images, trust, fed, cost, repeat]) part();
