"use strict";
/* What the page does: charts, the explorer and its panel, and the answers that are left when parts are taken away. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/* Charts, drawn anew when the theme changes. */
function drawCharts() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = {labelColor: colour("text"), titleColor: colour("text"), gridColor: colour("line"), domainColor: colour("soft"),
    tickColor: colour("soft"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal"};
  const config = {background: null, font: "system-ui, sans-serif", axis, view: {stroke: null}, text: {color: colour("text")},
    legend: {labelColor: colour("text"), titleColor: colour("text"), labelFontSize: 12, labelLimit: 300, orient: "bottom", columns: 2},
    range: {category: [colour("q"), colour("k"), colour("v"), colour("other"), "#b07aa1", "#edc948"]}};
  for (const element of document.querySelectorAll("[data-chart]")) {
    const spec = DATA.charts[element.dataset.chart];
    if (spec) vegaEmbed(element, spec, {renderer: "svg", actions: false, config}).catch((error) => console.error(error));
    else element.textContent = "Not there: the run left no figures for this.";
  }
}

/* The explorer. `state` is all that an address carries. */
const graph = DATA.graph, {sender, receiver, step, score, frequency, gate, other} = graph.edges;
const state = {step: graph.steps, view: "", node: null, gone: new Set(), changed: new Map()};
const edgeName = (edge) => `${graph.senders[sender[edge]].name}>${graph.receivers[receiver[edge]].name}`;
const edgeOf = new Map(sender.map((_, edge) => [edgeName(edge), edge]));
const explorer = new Explorer(byId("graph"), graph, {onChoose: choose, onToggle: toggleNode});
const model = DATA.model && new MaskedModel(DATA.model, graph);
const QUICK = 80, MAX_LISTED = 200;
let full = null, openTile = null, lastTook = 0, pending = null, addressPending = null;

/* Whether each edge is there: by the slider, unless it was changed by hand, and not at a node that was taken away. */
function keptEdges() {
  return Uint8Array.from(sender, (from, edge) => {
    const to = graph.receivers[receiver[edge]];
    if (state.gone.has(graph.senders[from].name) || state.gone.has(to.node)) return 0;
    if (state.changed.has(edge)) return state.changed.get(edge);
    return VIEWS[state.view](edge) ? 1 : 0;
  });
}

/* What the slider leaves, or how the circuit compares with another. */
const VIEWS = {
  "": (edge) => step[edge] === 0 || step[edge] > state.step,
  other: (edge) => other[edge],
  both: (edge) => step[edge] === 0 && other[edge],
  here: (edge) => step[edge] === 0 && !other[edge],
  there: (edge) => step[edge] !== 0 && other[edge],
};

function maskOf(kept) {
  const mask = new Uint8Array(graph.receivers.length * graph.senders.length);
  kept.forEach((isKept, edge) => { mask[receiver[edge] * graph.senders.length + sender[edge]] = isKept; });
  return mask;
}

function update() {
  const kept = keptEdges(), count = d3.sum(kept);
  explorer.show(kept, state.gone);
  byId("step").value = state.step;
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  byId("step-text").textContent = `${state.step} of ${graph.steps}, ${count.toLocaleString("en")} of ${sender.length.toLocaleString("en")} edges left`;
  byId("count").textContent = `${count.toLocaleString("en")} edges`;
  showPanel(kept);
  if (model) computeSoon(kept);
  writeAddress();
}

/* At once if that is quick, and otherwise when the reader has stopped moving the slider. */
function computeSoon(kept) {
  clearTimeout(pending);
  const compute = () => {
    const start = performance.now();
    pending = null;
    showOutcome(kept);
    lastTook = performance.now() - start;
  };
  if (lastTook < QUICK) compute();
  else pending = setTimeout(compute, 50);
}

function choose(name) {
  state.node = name;
  explorer.choose(name);
  showPanel(keptEdges());
  writeAddress();
}

function toggleNode(name) {
  if (name === "logits") return;
  if (!state.gone.delete(name)) state.gone.add(name);
  update();
}

function showPanel(kept) {
  const name = state.node, list = byId("node-edges");
  list.replaceChildren();
  byId("node-toggle").hidden = !name || name === "logits";
  if (!name) {
    byId("node-title").textContent = "Nothing is chosen";
    byId("node-text").textContent = "Click a box, or use the arrow keys within the graph.";
    return;
  }
  const all = d3.range(sender.length);
  const into = all.filter((edge) => graph.receivers[receiver[edge]].node === name);
  const out = all.filter((edge) => graph.senders[sender[edge]].name === name);
  const head = DATA.heads.find((view) => view.name === name);
  byId("node-title").textContent = name === "embed" ? "image (embedding)" : name;
  byId("node-text").textContent =
    `${d3.sum(into, (edge) => kept[edge])} of ${into.length} edges in, ${d3.sum(out, (edge) => kept[edge])} of ${out.length} out.` +
    (head ? ` The whole model without this head: KL ${head.kl.toFixed(4)} nats.` : "");
  byId("node-on").checked = !state.gone.has(name);
  for (const [title, edges] of [["Reads", into], ["Is read by", out]]) {
    if (edges.length) list.append(edgeList(title, edges, kept));
  }
}

/* The edges of a node with switches: those that are there, and those that were changed, first. */
function edgeList(title, edges, kept) {
  const group = document.createElement("div"), heading = document.createElement("h4"), items = document.createElement("ul");
  heading.textContent = edges.length > MAX_LISTED ? `${title} (${MAX_LISTED} of ${edges.length})` : title;
  const order = [...edges].sort((a, b) => kept[b] - kept[a] || Math.abs(score[b] ?? 0) - Math.abs(score[a] ?? 0)).slice(0, MAX_LISTED);
  for (const edge of order) {
    const item = document.createElement("li"), label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = Boolean(kept[edge]);
    box.dataset.edge = edgeName(edge);
    box.addEventListener("change", () => {
      state.changed.set(edge, box.checked ? 1 : 0);
      update();
      document.querySelector(`[data-edge="${CSS.escape(edgeName(edge))}"]`)?.focus();
    });
    const other = title === "Reads"
      ? `${graph.senders[sender[edge]].name}${graph.receivers[receiver[edge]].port ? ` into ${graph.receivers[receiver[edge]].port}` : ""}`
      : graph.receivers[receiver[edge]].name;
    const facts = [
      ...(score[edge] === null ? [] : [score[edge].toPrecision(2)]),
      ...(gate[edge] ? [gate[edge]] : []),
      ...(frequency ? [`in ${Math.round(100 * frequency[edge])} % of samples`] : []),
    ];
    label.append(box, ` ${other}${facts.length ? ` (${facts.join(", ")})` : ""}`);
    item.append(label);
    items.append(item);
  }
  group.append(heading, items);
  return group;
}

/* The answers of what is left, and how far they are from those of the whole model. */
function showOutcome(kept) {
  full ??= model.run(maskOf(new Uint8Array(sender.length).fill(1)));
  const logits = model.run(maskOf(kept));
  const divergences = logits.map((row, image) => divergence(full[image], row));
  const predictions = logits.map((row) => d3.maxIndex(row));
  const right = d3.sum(predictions, (label, image) => label === DATA.images[image].label);
  byId("figures").textContent = `KL ${d3.mean(divergences).toFixed(4)} nats, right on ${right} of ${logits.length} images.`;
  const tiles = byId("tiles");
  if (!tiles.children.length) DATA.images.forEach((image, index) => tiles.append(tile(image, index)));
  logits.forEach((row, index) => {
    const element = tiles.children[index], label = DATA.images[index].label, shares = logSoftmax(row).map(Math.exp);
    const predicted = predictions[index], isWrong = predicted !== label;
    element.classList.toggle("wrong", isWrong);
    element.setAttribute("aria-pressed", String(openTile === index));
    element.querySelector(".said").textContent = `${isWrong ? "✗" : "✓"} ${DATA.classes[predicted]} ${(100 * shares[predicted]).toFixed(0)} %`;
    element.querySelector(".kl").textContent = `KL ${divergences[index].toFixed(3)}`;
    if (openTile === index) showShares(shares, logSoftmax(full[index]).map(Math.exp), label);
  });
  if (openTile === null) byId("tile-detail").replaceChildren();
}

function tile(image, index) {
  const button = document.createElement("button"), picture = document.createElement("img");
  button.type = "button";
  button.className = "tile";
  picture.src = DATA.pictures[image.picture];
  picture.alt = `a test image of the class ${DATA.classes[image.label]}`;
  button.append(picture, ...["said", "kl"].map((name) => Object.assign(document.createElement("span"), {className: name})));
  button.addEventListener("click", () => {
    openTile = openTile === index ? null : index;
    showOutcome(keptEdges());
  });
  return button;
}

function showShares(shares, before, label) {
  const order = d3.sort(d3.range(shares.length), (a) => -Math.max(shares[a], before[a])).slice(0, 12);
  byId("tile-detail").replaceChildren(...order.map((name) => {
    const row = document.createElement("div"), bars = document.createElement("span");
    row.className = "bar";
    for (const [share, kind] of [[shares[name], ""], [before[name], "full"]]) {
      const bar = document.createElement("i");
      bar.className = kind;
      bar.style.width = `${100 * share}%`;
      bars.append(bar);
    }
    row.append(`${DATA.classes[name]}${name === label ? " (true)" : ""}`, bars, `${(100 * shares[name]).toFixed(1)} %`);
    row.title = `whole model: ${(100 * before[name]).toFixed(1)} %`;
    return row;
  }));
}

/* Step, chosen box and changes, so that a link shows what its sender saw. */
function writeAddress() {
  const parts = new URLSearchParams({step: state.step});
  if (state.view) parts.set("view", state.view);
  if (state.node) parts.set("node", state.node);
  if (state.gone.size) parts.set("without", [...state.gone].join(","));
  if (state.changed.size) parts.set("edges", [...state.changed].map(([edge, on]) => (on ? "+" : "-") + edgeName(edge)).join(","));
  clearTimeout(addressPending);
  addressPending = setTimeout(() => setAddress(`#circuit?${parts}`), 200);
}

/* Browsers allow few changes a second, and none where the page is a part of another. */
function setAddress(address) {
  try {
    history.replaceState(null, "", address);
  } catch {
    // The page works without.
  }
}

function readAddress() {
  const [, query] = location.hash.split("?");
  if (!query) return false;
  const parts = new URLSearchParams(query), names = new Set(explorer.nodes.map((node) => node.name));
  const wanted = Number(parts.get("step"));
  if (Number.isInteger(wanted)) state.step = Math.min(Math.max(wanted, 0), graph.steps);
  if (other && Object.hasOwn(VIEWS, parts.get("view") ?? "")) state.view = parts.get("view") ?? "";
  state.node = names.has(parts.get("node")) ? parts.get("node") : null;
  state.gone = new Set((parts.get("without") ?? "").split(",").filter((name) => names.has(name) && name !== "logits"));
  for (const change of (parts.get("edges") ?? "").split(",")) {
    const edge = edgeOf.get(change.slice(1));
    if (edge !== undefined) state.changed.set(edge, change[0] === "-" ? 0 : 1);
  }
  return true;
}

function download(kind) {
  const types = {json: "application/json", svg: "image/svg+xml", dot: "text/vnd.graphviz"};
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([explorer[kind]()], {type: types[kind]}));
  link.download = `circuit.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/* What a head looks at. */
function showHead(name) {
  const view = DATA.heads.find((head) => head.name === name);
  const figures = [
    figure(null, view.attention, `${view.name} on average: the lighter a patch, the more of what it gathers comes from there`),
    ...view.images.map((image) =>
      figure(DATA.pictures[image.picture], image.attention, `${DATA.classes[image.label]}: KL ${image.kl.toFixed(4)} without ${view.name}`)),
  ];
  byId("head-view").replaceChildren(...figures);
}

/* Attention over an image, or alone: dark where there is none. */
function figure(uri, attention, text) {
  const side = Math.round(Math.sqrt(attention.length)), size = 144, cell = size / side;
  const element = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
  canvas.width = canvas.height = size;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", text);
  caption.textContent = text;
  element.append(canvas, caption);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const shade = () => attention.forEach((value, patch) => {
    context.fillStyle = uri ? `rgba(0, 20, 60, ${0.8 * (1 - value / 255)})` : `rgb(${value}, ${value}, ${value})`;
    context.fillRect((patch % side) * cell, Math.floor(patch / side) * cell, cell, cell);
  });
  if (!uri) shade();
  else {
    const image = new Image();
    image.onload = () => {
      context.drawImage(image, 0, 0, size, size);
      shade();
    };
    image.src = uri;
  }
  return element;
}

function legend() {
  const meanings = {q: "into queries", k: "into keys", v: "into values", "": "into MLPs, whole heads and logits"};
  const ports = new Set(graph.receivers.map((item) => item.port));
  document.querySelector(".legend").innerHTML = Object.entries(meanings).filter(([port]) => ports.has(port)).map(([port, text]) =>
    `<span><svg width="44" height="8"><line x1="0" y1="4" x2="44" y2="4" style="stroke:var(--${port || "other"})" stroke-width="2.5" stroke-dasharray="${DASHES[port].join(" ")}"/></svg>${text}</span>`).join("") +
    "<span>the wider, the larger the score</span>" +
    (frequency ? "<span>pale: undecided, because other draws of the images lead to other circuits</span>" : "");
}

function start() {
  drawCharts();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  legend();
  byId("step").max = graph.steps;
  byId("node-names").append(...explorer.nodes.map((node) => Object.assign(document.createElement("option"), {value: node.name})));
  byId("step").addEventListener("input", (event) => {
    state.step = Number(event.target.value);
    state.view = "";
    update();
  });
  const actions = {
    whole: () => {
      state.step = 0;
      state.view = "";
    },
    found: () => {
      state.step = graph.steps;
      state.view = "";
    },
    reset: () => {
      state.gone.clear();
      state.changed.clear();
    },
  };
  for (const [id, action] of Object.entries(actions)) {
    byId(id).addEventListener("click", () => {
      action();
      update();
    });
  }
  document.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", () => {
    state.view = button.dataset.view;
    update();
  }));
  byId("fit").addEventListener("click", () => explorer.fit());
  byId("search").addEventListener("input", (event) => {
    if (explorer.position.has(event.target.value)) {
      choose(event.target.value);
      explorer.centre();
    }
  });
  byId("node-on").addEventListener("change", () => toggleNode(state.node));
  document.querySelectorAll("[data-download]").forEach((button) => button.addEventListener("click", () => download(button.dataset.download)));
  if (DATA.heads.length) {
    const select = byId("head");
    const order = d3.sort(DATA.heads, (view) => -view.kl);
    select.append(...DATA.heads.map((view) => Object.assign(document.createElement("option"), {value: view.name, textContent: view.name})));
    select.value = order[0].name;
    select.addEventListener("change", () => showHead(select.value));
    showHead(select.value);
  }
  const isLinked = readAddress();
  explorer.fit();
  explorer.choose(state.node);
  update();
  if (isLinked) byId("circuit").scrollIntoView();
  else clearTimeout(addressPending);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
}

start();
document.documentElement.dataset.ready = "yes";
