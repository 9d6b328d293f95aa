"use strict";
/* The forward pass of a circuit, as vitprune/circuit/masked.py computes it: every receiver reads a stream of its own.
   Dimensions: b images, t tokens, d width of the stream, k width of a head, n neurons. Arrays are flat, row by row. */

class MaskedModel {
  constructor(spec, graph) {
    this.spec = spec;
    this.graph = graph;
    const bytes = Uint8Array.from(atob(spec.floats), (letter) => letter.charCodeAt(0));
    const floats = new Float32Array(bytes.buffer);
    this.tensors = {};
    for (const [name, {start, shape}] of Object.entries(spec.tensors)) {
      const size = shape.reduce((product, length) => product * length, 1);
      this.tensors[name] = {values: floats.subarray(start, start + size), shape};
    }
    this.size = spec.tokens * spec.width;
    this.levelSenders = [];
    this.levelReceivers = [];
    for (let level = 0; level < graph.levels; level++) {
      this.levelSenders.push(indices(graph.senders, (node) => node.level === level));
      this.levelReceivers.push(indices(graph.receivers, (receiver) => receiver.level === level));
    }
    this.removed = graph.senders.map((node) => this.removedWrites(node));
    // What each sender writes on each image, as of the last run, and the edges that run kept.
    this.writes = graph.senders.map(() => new Float32Array(spec.images * this.size));
    this.writes[0].set(this.tensors["embed"].values);
    this.logits = null;
    this.kept = null;
  }

  values(name) {
    return this.tensors[name].values;
  }

  /* Logits of every image, as arrays of classes. kept[receiver * senders + sender] is 1 for an edge that is kept.
     Levels before the first one that changed since the last run are not computed again. */
  run(kept) {
    const first = this.firstChange(kept);
    for (let level = first; level < this.graph.levels; level++) {
      if (!this.levelReceivers[level].length) continue;
      if (level === this.graph.levels - 1) {
        const streams = this.streams(level, kept);
        this.logits = range(this.spec.images).map((image) => this.classify(streams.of(this.levelReceivers[level][0], image)));
      } else if (level % 2) {
        this.attend(level, kept);
      } else {
        this.think(level, kept);
      }
    }
    this.kept = kept.slice();
    return this.logits;
  }

  firstChange(kept) {
    if (this.kept === null) return 1;
    const senders = this.graph.senders.length;
    for (let level = 1; level < this.graph.levels; level++) {
      for (const receiver of this.levelReceivers[level]) {
        for (let sender = 0; sender < senders; sender++) {
          const edge = receiver * senders + sender;
          if (kept[edge] !== this.kept[edge]) return level;
        }
      }
    }
    return this.graph.levels;
  }

  /* What the receivers of a level read. Those that keep the same senders share one stream. */
  streams(level, kept) {
    const senders = this.graph.senders.length;
    const earlier = indices(this.graph.senders, (node) => node.level < level);
    const bias = this.biases(level);
    const cache = new Map();
    const of = (receiver, image) => {
      const row = earlier.map((sender) => kept[receiver * senders + sender]);
      const key = image + ":" + row.join("");
      if (!cache.has(key)) {
        const sum = Float64Array.from(bias);
        for (const sender of earlier) {
          const isKept = row[sender];
          const source = isKept ? this.writes[sender] : this.removed[sender];
          const start = isKept || source.length > this.size ? image * this.size : 0;
          for (let i = 0; i < this.size; i++) sum[i] += source[start + i];
        }
        cache.set(key, sum);
      }
      return cache.get(key);
    };
    return {of};
  }

  /* Sum of the output biases of all sublayers before a level, for every token. */
  biases(level) {
    const sum = new Float64Array(this.size);
    const {tokens, width} = this.spec;
    for (let before = 1; before < level; before++) {
      const name = `${(before - 1) >> 1}.${before % 2 ? "attention" : "mlp"}.out.bias`;
      if (!(name in this.tensors)) continue;
      const {values, shape} = this.tensors[name];
      for (let t = 0; t < tokens; t++) {
        for (let d = 0; d < width; d++) sum[t * width + d] += values[(shape.length > 1 ? t * width : 0) + d];
      }
    }
    return sum;
  }

  normed(stream, name) {
    const {tokens, width, epsilon} = this.spec;
    const weight = this.values(`${name}.weight`), bias = this.values(`${name}.bias`);
    const out = new Float64Array(this.size);
    for (let t = 0; t < tokens; t++) {
      let mean = 0, variance = 0;
      for (let d = 0; d < width; d++) mean += stream[t * width + d];
      mean /= width;
      for (let d = 0; d < width; d++) variance += (stream[t * width + d] - mean) ** 2;
      const scale = 1 / Math.sqrt(variance / width + epsilon);
      for (let d = 0; d < width; d++) out[t * width + d] = (stream[t * width + d] - mean) * scale * weight[d] + bias[d];
    }
    return out;
  }

  /* Rows first … first + count - 1 of a linear map (rows, width) on every token: (t, count). */
  linear(read, name, first, count) {
    const {tokens, width} = this.spec;
    const weight = this.values(`${name}.weight`), bias = this.values(`${name}.bias`);
    const out = new Float64Array(tokens * count);
    for (let t = 0; t < tokens; t++) {
      for (let row = 0; row < count; row++) {
        let sum = bias[first + row];
        const at = (first + row) * width, from = t * width;
        for (let d = 0; d < width; d++) sum += weight[at + d] * read[from + d];
        out[t * count + row] = sum;
      }
    }
    return out;
  }

  /* What activations (t, count) add to the stream through columns first … of an output map (width, inputs): (t, d). */
  send(activations, name, first, count, out, start) {
    const {tokens, width} = this.spec;
    const {values, shape} = this.tensors[`${name}.out.weight`];
    const inputs = shape[1];
    for (let t = 0; t < tokens; t++) {
      for (let d = 0; d < width; d++) {
        let sum = 0;
        for (let i = 0; i < count; i++) sum += values[d * inputs + first + i] * activations[t * count + i];
        out[start + t * width + d] = sum;
      }
    }
  }

  attend(level, kept) {
    const {tokens, headWidth, heads, images, split} = this.spec;
    const layer = (level - 1) >> 1, name = `${layer}.attention`, all = heads[layer] * headWidth;
    const streams = this.streams(level, kept);
    for (const sender of this.levelSenders[level]) {
      const node = this.graph.senders[sender], first = node.index * headWidth;
      const inputs = this.levelReceivers[level].filter((receiver) => this.graph.receivers[receiver].node === node.name);
      for (let image = 0; image < images; image++) {
        const [q, k, v] = [0, 1, 2].map((port) => {
          const read = this.normed(streams.of(inputs[split ? port : 0], image), `${name}.norm`);
          return this.linear(read, `${name}.qkv`, port * all + first, headWidth);
        });
        const gathered = attention(q, k, v, tokens, headWidth);
        this.send(gathered, name, first, headWidth, this.writes[sender], image * this.size);
      }
    }
  }

  think(level, kept) {
    const {images, groups} = this.spec;
    const layer = (level - 2) >> 1, name = `${layer}.mlp`;
    const streams = this.streams(level, kept);
    this.levelSenders[level].forEach((sender, group) => {
      const [start, stop] = groups[layer][group];
      for (let image = 0; image < images; image++) {
        const read = this.normed(streams.of(this.levelReceivers[level][group], image), `${name}.norm`);
        const neurons = this.linear(read, `${name}.hidden`, start, stop - start).map(gelu);
        this.send(neurons, name, start, stop - start, this.writes[sender], image * this.size);
      }
    });
  }

  classify(stream) {
    const {tokens, width, pooling} = this.spec;
    const normed = this.normed(stream, "norm");
    const read = new Float64Array(width);
    const used = pooling === "mean" ? tokens : 1;
    for (let t = 0; t < used; t++) for (let d = 0; d < width; d++) read[d] += normed[t * width + d] / used;
    const weight = this.values("classifier.weight"), bias = this.values("classifier.bias");
    return Array.from(bias, (start, row) => {
      let sum = start;
      for (let d = 0; d < width; d++) sum += weight[row * width + d] * read[d];
      return sum;
    });
  }

  /* What stands for a removed sender, (t, d), or (b, t, d) where it differs from image to image. */
  removedWrites(node) {
    const {tokens, headWidth, neurons, groups} = this.spec;
    if (node.kind === "embed") return this.values("removed.embed");
    const name = `${node.layer}.${node.kind === "head" ? "attention" : "mlp"}`;
    const {values, shape} = this.tensors[`${name}.removed`];
    const images = node.kind === "head" ? shape[1] : shape[0];
    const out = new Float32Array(images * this.size);
    for (let image = 0; image < images; image++) {
      if (node.kind === "head") {
        const size = tokens * headWidth, from = (node.index * images + image) * size;
        this.send(values.subarray(from, from + size), name, node.index * headWidth, headWidth, out, image * this.size);
      } else {
        const [start, stop] = groups[node.layer][node.index], all = neurons[node.layer];
        const part = new Float32Array(tokens * (stop - start));
        for (let t = 0; t < tokens; t++) {
          const from = (image * tokens + t) * all;
          part.set(values.subarray(from + start, from + stop), t * (stop - start));
        }
        this.send(part, name, start, stop - start, out, image * this.size);
      }
    }
    return out;
  }
}

function attention(q, k, v, tokens, width) {
  const out = new Float64Array(tokens * width), scale = 1 / Math.sqrt(width), weights = new Float64Array(tokens);
  for (let t = 0; t < tokens; t++) {
    let largest = -Infinity, total = 0;
    for (let s = 0; s < tokens; s++) {
      let score = 0;
      for (let i = 0; i < width; i++) score += q[t * width + i] * k[s * width + i];
      weights[s] = score * scale;
      largest = Math.max(largest, weights[s]);
    }
    for (let s = 0; s < tokens; s++) {
      weights[s] = Math.exp(weights[s] - largest);
      total += weights[s];
    }
    for (let s = 0; s < tokens; s++) {
      for (let i = 0; i < width; i++) out[t * width + i] += (weights[s] / total) * v[s * width + i];
    }
  }
  return out;
}

function gelu(x) {
  return 0.5 * x * (1 + erf(x * Math.SQRT1_2));
}

/* The error function to 1e-13: its Taylor series near zero, a continued fraction of its complement far out. */
function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size < 2.5) {
    let term = size, sum = size;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= -(size * size) / n;
      sum += term / (2 * n + 1);
    }
    return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = (n / 2) / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-size * size) / (Math.sqrt(Math.PI) * (size + fraction)));
}

function logSoftmax(logits) {
  const largest = Math.max(...logits);
  const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0)) + largest;
  return logits.map((logit) => logit - total);
}

/* KL(full ‖ other) in nats from logits of one image. */
function divergence(full, other) {
  const p = logSoftmax(full), q = logSoftmax(other);
  return p.reduce((sum, value, i) => sum + Math.exp(value) * (value - q[i]), 0);
}

function indices(items, isWanted) {
  return items.flatMap((item, index) => (isWanted(item) ? [index] : []));
}

function range(count) {
  return Array.from({length: count}, (_, index) => index);
}

if (typeof module !== "undefined") module.exports = {MaskedModel, erf, divergence, logSoftmax};
