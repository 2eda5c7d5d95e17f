"use strict";
const at = (id) => document.getElementById(id);
const make = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const percent = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
const place = (share) => `${100 * Math.sqrt(share)}%`; // on a bar
const START = { zoom: 1, x: 0, y: 0, level: 128, width: 255 };
let view = { ...START }; // x and y: the sheet's corner, in sides of the view
let film = null; // { side, greys }
let facts = {}; // by model
let turn = 0; // of films: a late answer to an older one is not shown

// --- the service -------------------------------------------------------------------------

async function ask(path, options = {}) {
  const token = at("token").value;
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The service does not answer.");
  });
  const answer = await response.json().catch(() => ({ detail: `The service answered ${response.status}.` }));
  if (response.status === 401) at("token-field").hidden = false;
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

function say(status, error = "") {
  at("status").textContent = status;
  at("error").textContent = error;
  at("error").hidden = !error;
}

async function loadModels() {
  facts = await ask("v1/models");
  const names = Object.keys(facts);
  at("model-field").hidden = names.length < 2;
  at("model").replaceChildren(at("model").options[0], ...names.map((name) => new Option(name, name)));
  at("facts").replaceChildren(...names.map(describe));
  say("No film yet.");
}

async function send(file) {
  const mine = ++turn;
  at("result").hidden = true;
  say("The film is being read ...");
  const body = new FormData();
  body.append("file", file, "film"); // its name stays here
  const query = new URLSearchParams({ model: at("model").value, maps: true, film: true });
  try {
    const answer = await ask(`v1/predict?${query}`, { method: "POST", body });
    const picture = new Image();
    picture.src = answer.film;
    await picture.decode();
    if (mine === turn) show(answer, picture);
  } catch (error) {
    if (mine === turn) say("No findings.", error.message);
  }
}

// --- findings ----------------------------------------------------------------------------

function describe(name) {
  const { checkpoint, weights_sha256, split, operating_points: points, prior, versions } = facts[name];
  const rows = {
    Checkpoint: checkpoint.slice(0, 16), Weights: weights_sha256.slice(0, 16), Split: split || "unknown",
    "Operating points": points ? `${points.rule} on ${points.subset}` : "none: nothing is called",
    Prior: prior, Version: Object.entries(versions).map((pair) => pair.join(" ")).join(", "),
  };
  const cells = Object.entries(rows).flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, String(value))]);
  return make("section", {}, make("h2", {}, name), make("dl", {}, ...cells));
}

function show(answer, picture) {
  const side = picture.naturalWidth;
  const canvas = Object.assign(at("film"), { width: side, height: side });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  film = { side, greys: context.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 === 0) };
  at("models").replaceChildren(...answer.models.map((model, number) => list(model, number, answer.reader)));
  at("result").hidden = false;
  change(START);
  at("models").querySelector("input").click();
  const called = answer.models.map((model) => {
    const names = model.findings.filter((one) => one.called).map((one) => `${one.label} ${value(one)}`);
    const known = model.findings.some((one) => one.called !== null);
    return `${model.model}: ${known ? names.join(", ") || "nothing" : "without operating points, nothing can be"} called`;
  });
  say(`Done. ${called.join("; ")}.`);
}

const value = (finding) => (finding.probability === null ? `score ${finding.score.toFixed(3)}` : percent(finding.probability));

function list(model, number, notes) {
  const strength = (one) => (one.called ? 2 : 0) + (one.probability ?? one.score);
  const findings = [...model.findings].sort((one, other) => strength(other) - strength(one));
  const gate = model.gate === null
    ? "This checkpoint has no gate: whether the film is one of its kind is not known."
    : model.gate.length ? `This film may not be what the model was trained for: ${model.gate.join("; ")}.`
      : `Nothing unusual was noticed (of films like those of training ${percent(model.false_alarms)} are remarked on).`;
  return make("section", {},
    make("h2", {}, model.model),
    make("p", { className: model.gate?.length ? "warn" : "small" }, gate),
    ...notes.map((note) => make("p", { className: "small" }, `Reader: ${note}.`)),
    make("fieldset", {}, make("legend", {}, "Findings; the chosen one's map is on the film"),
      ...findings.map((finding) => row(model, finding, number)),
      row(model, null, number)));
}

function row(model, finding, number) {
  const choice = make("input", { type: "radio", name: "finding" });
  choice.addEventListener("change", () => paint(model, finding));
  if (!finding) return make("label", { className: "finding" }, choice, make("span", {}, "no map"));
  const calibrated = finding.probability !== null;
  const [share, mark] = calibrated
    ? [finding.probability, finding.threshold_probability] : [finding.score, finding.threshold];
  const bar = make("span", { className: "bar", ariaHidden: "true" }, make("span", { className: "fill" }));
  bar.firstChild.style.width = place(share);
  let point = "no operating point";
  if (mark !== null) {
    bar.append(make("span", { className: "mark" }));
    bar.lastChild.style.left = place(mark);
    point = `${finding.called ? "called" : "not called"}, from ${calibrated ? percent(mark) : mark.toFixed(3)}`;
  }
  return make("label", { className: finding.called ? "finding called" : "finding" }, choice,
    make("span", { className: "name" }, finding.label),
    make("span", { className: "value" }, `${value(finding)}; ${point}`), bar);
}

// --- the film ----------------------------------------------------------------------------

function paint(model, finding) {
  const context = at("map").getContext("2d");
  const side = at("map").width;
  context.clearRect(0, 0, side, side);
  at("map-text").textContent = finding
    ? `Map of ${finding.label} by ${model.model}: ${finding.map.length} x ${finding.map[0].length} cells.` : "";
  if (!finding) return;
  const { map } = finding;
  const sorted = map.flat().sort((one, other) => one - other);
  const low = sorted[0] < 0 ? 0 : sorted[sorted.length >> 1]; // without a sign: clear up to the median
  const most = Math.max(Math.abs(sorted[0] - low) * (sorted[0] < 0), sorted[sorted.length - 1] - low, 1e-12);
  const image = context.createImageData(side, side);
  const between = (pixel, axis, count) => {
    const cell = Math.min(Math.max(((pixel + 0.5) / side - model.cells[axis][0]) / model.cells[axis][1], 0), count - 1);
    const before = Math.min(Math.floor(cell), Math.max(count - 2, 0));
    return [before, Math.min(before + 1, count - 1), cell - before];
  };
  const across = Array.from({ length: side }, (_, x) => between(x, 1, map[0].length));
  for (let y = 0; y < side; y++) {
    const [top, bottom, down] = between(y, 0, map.length);
    across.forEach(([left, right, over], x) => {
      const upper = map[top][left] * (1 - over) + map[top][right] * over;
      const lower = map[bottom][left] * (1 - over) + map[bottom][right] * over;
      const strength = (upper * (1 - down) + lower * down - low) / most;
      const colour = strength >= 0 ? [255, 140, 0] : [148, 103, 255];
      const clear = strength < 0 && sorted[0] >= 0;
      image.data.set([...colour, clear ? 0 : 255 * Math.min(Math.abs(strength), 1)], 4 * (y * side + x));
    });
  }
  context.putImageData(image, 0, 0);
}

function change(values) {
  const before = view;
  view = { ...view, ...values };
  const limits = { zoom: [1, 8], x: [1 - view.zoom, 0], y: [1 - view.zoom, 0], level: [0, 255], width: [2, 510] };
  for (const [name, [low, high]] of Object.entries(limits)) view[name] = Math.min(Math.max(view[name], low), high);
  for (const name of ["zoom", "level", "width"]) at(name).value = view[name];
  at("sheet").style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.zoom})`;
  at("view").classList.toggle("zoomed", view.zoom > 1);
  if (film && (before.level !== view.level || before.width !== view.width || values === START)) drawFilm();
}

function drawFilm() {
  const context = at("film").getContext("2d");
  const image = context.createImageData(film.side, film.side);
  const pixels = new Uint32Array(image.data.buffer);
  const table = Uint32Array.from({ length: 256 }, (_, grey) => {
    const shown = (255 * (grey - view.level + 0.5)) / view.width + 127.5;
    return 0xff000000 + 0x010101 * Math.min(Math.max(Math.round(shown), 0), 255);
  });
  film.greys.forEach((grey, i) => { pixels[i] = table[grey]; });
  context.putImageData(image, 0, 0);
}

function zoomAt(factor, x = 0.5, y = 0.5) { // the place under (x, y) stays where it is
  const zoom = Math.min(Math.max(view.zoom * factor, 1), 8);
  const kept = (corner, place) => place - ((place - corner) * zoom) / view.zoom;
  change({ zoom, x: kept(view.x, x), y: kept(view.y, y) });
}

const KEYS = {
  "+": () => zoomAt(1.25), "=": () => zoomAt(1.25), "-": () => zoomAt(0.8), 0: () => change(START),
  ArrowLeft: (window) => change(window ? { width: view.width - 10 } : { x: view.x + 0.1 }),
  ArrowRight: (window) => change(window ? { width: view.width + 10 } : { x: view.x - 0.1 }),
  ArrowUp: (window) => change(window ? { level: view.level + 5 } : { y: view.y + 0.1 }),
  ArrowDown: (window) => change(window ? { level: view.level - 5 } : { y: view.y - 0.1 }),
};

at("view").addEventListener("keydown", (event) => {
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key](event.shiftKey);
});
at("view").addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = at("view").getBoundingClientRect();
  zoomAt(event.deltaY < 0 ? 1.15 : 1 / 1.15, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}, { passive: false });
at("view").addEventListener("pointerdown", () => at("view").focus());
at("view").addEventListener("pointermove", (event) => {
  if (!event.buttons) return;
  at("view").setPointerCapture(event.pointerId);
  if (event.buttons === 2 || event.shiftKey) {
    change({ width: view.width + event.movementX, level: view.level - event.movementY });
  } else {
    const side = at("view").clientWidth;
    change({ x: view.x + event.movementX / side, y: view.y + event.movementY / side });
  }
});
at("view").addEventListener("contextmenu", (event) => event.preventDefault());
at("view").addEventListener("dblclick", () => change(START));
at("zoom").addEventListener("input", (event) => zoomAt(event.target.value / view.zoom));
at("level").addEventListener("input", (event) => change({ level: Number(event.target.value) }));
at("width").addEventListener("input", (event) => change({ width: Number(event.target.value) }));
const fade = () => { at("map").style.opacity = at("opacity").value / 100; };
at("opacity").addEventListener("input", fade);
at("reset").addEventListener("click", () => change(START));

at("file").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // the same film can be chosen again, and no name is shown
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
}
at("form").addEventListener("submit", (event) => event.preventDefault()); // Enter in the token's field

const start = () => loadModels().catch((error) => say("No film yet.", error.message));
at("token").addEventListener("change", start);
fade();
start();
