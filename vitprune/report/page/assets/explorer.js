"use strict";
/* The picture of a circuit on a canvas: levels as columns, nodes as boxes, the residual stream as a line through them. */

const COLUMN = 116, ROW = 36, HALF_WIDTH = 31, HALF_HEIGHT = 13;
const DASHES = {q: [], k: [7, 4], v: [2, 3], "": []};
const WIDTHS = [0.6, 1.2, 2.2, 3.6];
const CLEAR = 0.75, UNDECIDED = 0.28, DIM = 0.06;  // How opaque edges are drawn.
const MOVED_AS_PICTURE = 200;  // More edges are not drawn anew for every frame of a drag.
const MANY_EDGES = 3000;  // Of more, paths are shown for the chosen box and not under the pointer.
const PORT_SHIFT = {q: -7, k: 0, v: 7, "": 0};

class Explorer {
  /* onChoose(name or null) is called when a box is chosen, onToggle(name) when it is to be taken away or put back. */
  constructor(canvas, graph, {onChoose, onToggle}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.graph = graph;
    this.onChoose = onChoose;
    this.onToggle = onToggle;
    this.nodes = [...graph.senders, {name: "logits", kind: "logits", level: graph.levels - 1, layer: -1, index: 0}];
    this.place();
    this.edges = graph.edges.sender.map((sender, edge) => this.geometry(edge));
    this.transform = d3.zoomIdentity;
    this.kept = new Uint8Array(this.edges.length).fill(1);
    this.gone = new Set();
    this.chosen = null;
    this.hovered = null;
    this.frames = 0;
    this.listen();
  }

  place() {
    const columns = d3.group(this.nodes, (node) => node.level);
    this.position = new Map();
    this.top = 0;
    for (const [level, column] of columns) {
      column.forEach((node, row) => {
        const y = (row - (column.length - 1) / 2) * ROW;
        this.position.set(node.name, {x: level * COLUMN, y});
        this.top = Math.max(this.top, Math.abs(y));
      });
    }
    this.columns = columns;
  }

  geometry(edge) {
    const {sender, receiver, score, frequency, undecided, gate} = this.graph.edges;
    const from = this.graph.senders[sender[edge]], to = this.graph.receivers[receiver[edge]];
    const start = this.position.get(from.name), end = this.position.get(to.node);
    const span = to.level - from.level, x1 = start.x + HALF_WIDTH, x2 = end.x - HALF_WIDTH, y2 = end.y + PORT_SHIFT[to.port];
    // An edge that passes columns bends out of the way of their boxes.
    const bend = span > 1 ? (start.y + end.y > 0 ? 1 : -1) * Math.min(this.top * 0.8 + 20, 22 * span) : 0;
    const reach = (x2 - x1) * 0.4;
    return {
      from: from.name, to: to.node, port: to.port, score: score[edge], bucket: 0,
      gate: gate[edge], frequency: frequency?.[edge] ?? null, undecided: Boolean(undecided?.[edge]),
      curve: [x1, start.y, x1 + reach, start.y + bend, x2 - reach, y2 + bend, x2, y2],
    };
  }

  /* Widths by the rank of scores among the edges that are shown. */
  rank() {
    const shown = d3.range(this.edges.length).filter((edge) => this.kept[edge] && this.edges[edge].score !== null);
    shown.sort((a, b) => Math.abs(this.edges[a].score) - Math.abs(this.edges[b].score));
    this.edges.forEach((edge) => { edge.bucket = 0; });
    shown.forEach((edge, rank) => { this.edges[edge].bucket = Math.floor((rank / shown.length) * WIDTHS.length); });
  }

  show(kept, gone) {
    this.kept = kept;
    this.gone = gone;
    this.rank();
    this.paths = null;
    this.draw();
  }

  choose(name) {
    this.chosen = name;
    this.paths = null;
    this.draw();
  }

  /* All nodes on paths into and out of a node along the edges that are shown, and those edges. */
  reach(name) {
    const nodes = new Set([name]), edges = new Set();
    const walk = (near, far) => {
      const byNear = d3.group(d3.range(this.edges.length).filter((edge) => this.kept[edge]), (edge) => this.edges[edge][near]);
      const queue = [name], seen = new Set(queue);
      while (queue.length) {
        for (const edge of byNear.get(queue.pop()) ?? []) {
          edges.add(edge);
          const next = this.edges[edge][far];
          if (!seen.has(next)) {
            seen.add(next);
            nodes.add(next);
            queue.push(next);
          }
        }
      }
    };
    walk("to", "from");
    walk("from", "to");
    return {nodes, edges};
  }

  /* One path for each way to draw an edge, in the coordinates of the graph. */
  build() {
    const focus = this.chosen ?? this.hovered;
    this.focus = focus ? this.reach(focus) : null;
    this.paths = new Map();
    for (let edge = 0; edge < this.edges.length; edge++) {
      if (!this.kept[edge]) continue;
      const {curve, port, bucket, undecided} = this.edges[edge];
      const dim = this.focus !== null && !this.focus.edges.has(edge);
      const alpha = dim ? DIM : undecided ? UNDECIDED : CLEAR;
      const key = `${port}:${bucket}:${alpha}`;
      if (!this.paths.has(key)) this.paths.set(key, {port, bucket, alpha, path: new Path2D()});
      const path = this.paths.get(key).path;
      path.moveTo(curve[0], curve[1]);
      path.bezierCurveTo(curve[2], curve[3], curve[4], curve[5], curve[6], curve[7]);
    }
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    return {q: of("q"), k: of("k"), v: of("v"), "": of("other"), text: of("text"), soft: of("soft"), line: of("line"),
      node: of("node"), mlp: of("mlp"), chosen: of("chosen"), off: of("off")};
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      this.paint();
    });
  }

  paint() {
    const {canvas, context} = this, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      this.picture = null;
    }
    this.frames += 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (this.dragging && this.picture) {
      // The last whole picture, moved and scaled, until the drag is over.
      const {k, x, y} = this.transform, last = this.picture.transform, scale = k / last.k;
      context.drawImage(this.picture.image, (x - last.x * scale) * ratio, (y - last.y * scale) * ratio,
        canvas.width * scale, canvas.height * scale);
      return;
    }
    const {k, x, y} = this.transform;
    context.setTransform(k * ratio, 0, 0, k * ratio, x * ratio, y * ratio);
    this.paintAll(context);
    if (this.edges.length > MOVED_AS_PICTURE) {
      const image = this.picture?.image ?? document.createElement("canvas");
      image.width = canvas.width;
      image.height = canvas.height;
      image.getContext("2d").drawImage(canvas, 0, 0);
      this.picture = {image, transform: this.transform};
    }
  }

  paintAll(context) {
    if (!this.paths) this.build();
    const colours = this.colours(), end = (this.graph.levels - 1) * COLUMN;
    context.lineWidth = 10;
    context.strokeStyle = colours.line;
    context.globalAlpha = 0.6;
    context.beginPath();
    context.moveTo(-HALF_WIDTH - 20, 0);
    context.lineTo(end + HALF_WIDTH + 20, 0);
    context.stroke();
    for (const {port, bucket, alpha, path} of this.paths.values()) {
      context.globalAlpha = alpha;
      context.strokeStyle = colours[port];
      context.lineWidth = WIDTHS[bucket];
      context.setLineDash(DASHES[port]);
      context.stroke(path);
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = "13px system-ui, sans-serif";
    const used = this.usedNodes();
    for (const node of this.nodes) this.paintNode(context, node, colours, used);
    context.fillStyle = colours.soft;
    for (const [level] of this.columns) {
      context.fillText(columnName(level, this.graph.levels), level * COLUMN, this.top + ROW * 1.3);
    }
    context.fillText("residual stream", 0, HALF_HEIGHT + 12);
  }

  paintNode(context, node, colours, used) {
    const {x, y} = this.position.get(node.name), isGone = this.gone.has(node.name);
    const dim = this.focus !== null && this.focus !== undefined && !this.focus.nodes.has(node.name);
    context.globalAlpha = dim ? 0.25 : used.has(node.name) || isGone ? 1 : 0.4;
    context.fillStyle = node.name === this.chosen ? colours.chosen : node.kind === "mlp" ? colours.mlp : colours.node;
    context.strokeStyle = isGone ? colours.off : colours.text;
    context.lineWidth = node.name === this.chosen ? 2.5 : 1;
    context.setLineDash(used.has(node.name) && !isGone ? [] : [4, 3]);
    context.beginPath();
    context.roundRect(x - HALF_WIDTH, y - HALF_HEIGHT, 2 * HALF_WIDTH, 2 * HALF_HEIGHT, node.kind === "mlp" ? 2 : 10);
    context.fill();
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = isGone ? colours.off : colours.text;
    context.fillText(node.kind === "embed" ? "image" : node.name, x, y);
    if (isGone) {
      context.beginPath();
      context.strokeStyle = colours.off;
      context.moveTo(x - HALF_WIDTH + 6, y);
      context.lineTo(x + HALF_WIDTH - 6, y);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  /* Nodes with an edge in or out among those that are shown. */
  usedNodes() {
    const used = new Set(["embed", "logits"]);
    this.edges.forEach((edge, index) => {
      if (this.kept[index]) {
        used.add(edge.from);
        used.add(edge.to);
      }
    });
    return used;
  }

  listen() {
    const canvas = this.canvas;
    this.zoom = d3.zoom().scaleExtent([0.05, 6])
      // The wheel scrolls the page until the graph has been chosen.
      .filter((event) => !event.button && (event.type !== "wheel" || event.ctrlKey || document.activeElement === canvas))
      .on("start", () => {
        clearTimeout(this.settle);
        this.dragging = this.edges.length > MOVED_AS_PICTURE;
      })
      .on("zoom", (event) => {
        this.transform = event.transform;
        // What the reader has moved stays where it is when the window changes.
        if (event.sourceEvent) this.isFitted = false;
        this.draw();
      })
      .on("end", () => {
        clearTimeout(this.settle);
        this.settle = setTimeout(() => {
          this.dragging = false;
          this.draw();
        }, this.dragging ? 120 : 0);
      });
    d3.select(canvas).call(this.zoom).on("dblclick.zoom", null);
    canvas.addEventListener("click", (event) => this.onChoose(this.at(event)));
    canvas.addEventListener("pointermove", (event) => {
      const name = this.at(event);
      canvas.style.cursor = name ? "pointer" : "grab";
      if (name === this.hovered || this.edges.length > MANY_EDGES) return;
      this.hovered = name;
      if (!this.chosen) {
        this.paths = null;
        this.draw();
      }
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => (this.isFitted ? this.fit() : this.draw())).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  at(event) {
    const [x, y] = this.transform.invert(d3.pointer(event, this.canvas));
    const hit = this.nodes.find((node) => {
      const place = this.position.get(node.name);
      return Math.abs(place.x - x) <= HALF_WIDTH && Math.abs(place.y - y) <= HALF_HEIGHT;
    });
    return hit ? hit.name : null;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const zoom = d3.select(this.canvas);
    if (event.key in moves) {
      this.onChoose(this.neighbour(...moves[event.key]));
      this.centre();
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.chosen) this.onToggle(this.chosen);
    } else if (event.key === "+") this.zoom.scaleBy(zoom, 1.3);
    else if (event.key === "-") this.zoom.scaleBy(zoom, 1 / 1.3);
    else if (event.key === "0") this.fit();
    else if (event.key === "Escape") this.onChoose(null);
    else return;
    event.preventDefault();
  }

  /* The box beside the chosen one, or the first if none is chosen. */
  neighbour(across, down) {
    if (!this.chosen) return "embed";
    const here = this.position.get(this.chosen);
    const node = this.nodes.find((other) => other.name === this.chosen);
    const candidates = this.nodes.filter((other) => {
      const place = this.position.get(other.name);
      return across ? (other.level - node.level) * across > 0 : other.level === node.level && (place.y - here.y) * down > 0;
    });
    const nearest = d3.least(candidates, (other) => {
      const place = this.position.get(other.name);
      return Math.abs(place.x - here.x) * 10 + Math.abs(place.y - here.y);
    });
    return nearest ? nearest.name : this.chosen;
  }

  /* Bring the chosen box into view. */
  centre() {
    const place = this.chosen && this.position.get(this.chosen);
    if (place) d3.select(this.canvas).call(this.zoom.translateTo, place.x, place.y);
  }

  fit() {
    this.isFitted = true;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    const left = -HALF_WIDTH - 24, right = (this.graph.levels - 1) * COLUMN + HALF_WIDTH + 20;
    const tall = 2 * (this.top + ROW * 2);
    const k = Math.min(width / (right - left), height / tall, 1.6);
    const transform = d3.zoomIdentity.translate((width - k * (left + right)) / 2, height / 2).scale(k);
    d3.select(this.canvas).call(this.zoom.transform, transform);
  }

  /* What is shown, as a picture of its own. */
  svg() {
    const colours = this.colours(), used = this.usedNodes(), end = (this.graph.levels - 1) * COLUMN;
    const box = [-HALF_WIDTH - 24, -this.top - ROW * 2, end + 2 * HALF_WIDTH + 48, 2 * (this.top + ROW * 2)];
    const escape = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
    const lines = this.edges.flatMap((edge, index) => {
      if (!this.kept[index]) return [];
      const [x1, y1, x2, y2, x3, y3, x4, y4] = edge.curve;
      return `<path d="M${x1},${y1}C${x2},${y2} ${x3},${y3} ${x4},${y4}" fill="none" stroke="${colours[edge.port]}" stroke-width="${WIDTHS[edge.bucket]}" stroke-dasharray="${DASHES[edge.port].join(" ")}" opacity="${edge.undecided ? UNDECIDED : CLEAR}"><title>${escape(`${edge.from} → ${edge.to}${edge.port ? "." + edge.port : ""}`)}</title></path>`;
    });
    const boxes = this.nodes.filter((node) => used.has(node.name)).map((node) => {
      const {x, y} = this.position.get(node.name);
      return `<g><rect x="${x - HALF_WIDTH}" y="${y - HALF_HEIGHT}" width="${2 * HALF_WIDTH}" height="${2 * HALF_HEIGHT}" rx="${node.kind === "mlp" ? 2 : 10}" fill="${node.kind === "mlp" ? colours.mlp : colours.node}" stroke="${colours.text}"/><text x="${x}" y="${y}" fill="${colours.text}">${escape(node.kind === "embed" ? "image" : node.name)}</text></g>`;
    });
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box.join(" ")}" font-family="sans-serif" font-size="13" text-anchor="middle" dominant-baseline="central">${lines.join("")}${boxes.join("")}</svg>\n`;
  }

  dot() {
    const name = (text) => JSON.stringify(text);
    const lines = this.edges.flatMap((edge, index) => (this.kept[index]
      ? [`  ${name(edge.from)} -> ${name(edge.to)} [label=${name(edge.port)}${edge.score === null ? "" : `, weight_score=${edge.score}`}];`]
      : []));
    return `digraph circuit {\n  rankdir=LR;\n${lines.join("\n")}\n}\n`;
  }

  json() {
    const edges = this.edges.flatMap((edge, index) => (this.kept[index]
      ? [{sender: edge.from, receiver: edge.to + (edge.port ? `.${edge.port}` : ""), score: edge.score, gate: edge.gate, frequency: edge.frequency}]
      : []));
    return `${JSON.stringify({nodes: [...this.usedNodes()], edges}, null, 1)}\n`;
  }
}

function columnName(level, levels) {
  if (level === 0) return "";
  if (level === levels - 1) return "";
  return `${level % 2 ? "attention" : "MLP"} ${(level - 1) >> 1}`;
}
