"use strict";

/* The dynamics of eqprop's layered networks, and back through their steps, for one sample.

   What is what: a network is {kind, rho, epsilon, clip, nudge, shapes, classes, edges, readout, cost}
   as eqprop.explorer.described_network has it, its arrays decoded. A state is one Float64Array per layer.
   All of it is written to be the same as eqprop.networks.layered, to rounding. */
const Engine = (() => {
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const entropy = (p) => (p > 0 ? p * Math.log(p) : 0);
  const between = (x, low, high) => Math.min(high, Math.max(low, x));

  /* ρ, its first three derivatives, and G with G′ = ρ⁻¹, of which the energy is made. */
  const RHO = {
    "scaled-sigmoid": {
      of: (x) => sigmoid(4 * x - 2),
      slope: (x) => { const r = sigmoid(4 * x - 2); return 4 * r * (1 - r); },
      bend: (x) => { const r = sigmoid(4 * x - 2); return 16 * r * (1 - r) * (1 - 2 * r); },
      third: (x) => { const r = sigmoid(4 * x - 2); return 64 * r * (1 - r) * (1 - 6 * r * (1 - r)); },
      G: (s) => (entropy(s) + entropy(1 - s)) / 4 + s / 2,
    },
    "hard-sigmoid": {
      of: (x) => between(x, 0, 1),
      slope: (x) => (x >= 0 && x <= 1 ? 1 : 0),
      bend: () => 0,
      third: () => 0,
      G: (s) => (s * s) / 2,
    },
    "half-hard-sigmoid": {
      of: (x) => between(x / 2, 0, 1),
      slope: (x) => (x >= 0 && x <= 2 ? 0.5 : 0),
      bend: () => 0,
      third: () => 0,
      G: (s) => s * s,
    },
    tanh: {
      of: Math.tanh,
      slope: (x) => 1 - Math.tanh(x) ** 2,
      bend: (x) => { const r = Math.tanh(x); return -2 * r * (1 - r * r); },
      third: (x) => { const r = Math.tanh(x); return -2 * (1 - r * r) * (1 - 3 * r * r); },
      G: (s) => (entropy((1 + s) / 2) + entropy((1 - s) / 2)),
    },
  };

  const size = (shape) => shape.reduce((a, b) => a * b, 1);
  const zeros = (n) => new Float64Array(n);

  /* W l (+ b), and Wᵀ u. */
  class Dense {
    constructor(edge) {
      Object.assign(this, edge);
      this.rows = size(edge.upperShape);
      this.columns = size(edge.lowerShape);
    }
    trace() { return null; }
    up(lower, trace, weight = this.weight, bias = this.bias) {
      const out = zeros(this.rows);
      for (let i = 0, k = 0; i < this.rows; i++) {
        let sum = bias ? bias[i] : 0;
        for (let j = 0; j < this.columns; j++, k++) sum += weight[k] * lower[j];
        out[i] = sum;
      }
      return out;
    }
    down(upper, trace, weight = this.backward || this.weight) {
      const out = zeros(this.columns);
      for (let i = 0, k = 0; i < this.rows; i++) {
        const u = upper[i];
        if (u === 0) { k += this.columns; continue; }
        for (let j = 0; j < this.columns; j++, k++) out[j] += weight[k] * u;
      }
      return out;
    }
  }

  /* P(w ⋆ l + b), and wᵀ ⋆ P⁻¹(u), where the places of the largest values are the trace. */
  class ConvPool {
    constructor(edge) {
      Object.assign(this, edge);
      [this.channels, this.outHeight, this.outWidth] = edge.upperShape;
      [this.inputs, this.height, this.width] = edge.lowerShape;
      [, this.convHeight, this.convWidth] = edge.convShape;
    }
    /* Calls back with the number of a weight, where in the convolved image and in the lower one a row
       begins that it connects, and how long that is; the lower one goes on by the stride. */
    each(back) {
      const { kernel, stride, padding } = this;
      for (let c = 0, k = 0; c < this.channels; c++)
        for (let d = 0; d < this.inputs; d++)
          for (let a = 0; a < kernel; a++)
            for (let b = 0; b < kernel; b++, k++) {
              const begin = Math.max(0, Math.ceil((padding - b) / stride));
              const end = Math.min(this.convWidth, Math.floor((this.width - 1 + padding - b) / stride) + 1);
              for (let y = 0; y < this.convHeight; y++) {
                const v = y * stride + a - padding;
                if (v < 0 || v >= this.height) continue;
                const image = (c * this.convHeight + y) * this.convWidth + begin;
                const line = (d * this.height + v) * this.width + begin * stride + b - padding;
                back(k, image, line, end - begin);
              }
            }
    }
    /* Of the same layer it is asked for more than once in a step. */
    convolved(lower, weight, bias) {
      const { known } = this;
      if (bias && known && known.lower === lower) return known.image;
      const image = this.convolve(lower, weight, bias);
      if (bias) this.known = { lower, image };
      return image;
    }
    convolve(lower, weight, bias) {
      const image = zeros(size(this.convShape));
      if (bias) {
        const plane = this.convHeight * this.convWidth;
        for (let c = 0; c < this.channels; c++) image.fill(bias[c], c * plane, (c + 1) * plane);
      }
      const { stride } = this;
      this.each((k, to, from, n) => {
        const w = weight[k];
        for (let i = 0; i < n; i++) image[to + i] += w * lower[from + i * stride];
      });
      return image;
    }
    /* Calls back with the number of every pooled value and those of its window. */
    windows(back) {
      const { pool } = this;
      for (let c = 0, n = 0; c < this.channels; c++)
        for (let y = 0; y < this.outHeight; y++)
          for (let x = 0; x < this.outWidth; x++, n++)
            for (let a = 0; a < pool; a++)
              for (let b = 0; b < pool; b++)
                back(n, (c * this.convHeight + y * pool + a) * this.convWidth + x * pool + b);
    }
    trace(lower) {
      if (this.pool === 1 || this.pooling !== "max") return null;
      return this.largest(this.convolved(lower, this.weight, this.bias));
    }
    largest(image) {
      const places = new Int32Array(size(this.upperShape)).fill(-1);
      this.windows((n, place) => {
        if (places[n] < 0 || image[place] > image[places[n]]) places[n] = place;
      });
      return places;
    }
    pooled(image, places) {
      if (this.pool === 1) return image;
      const out = zeros(size(this.upperShape));
      if (places) places.forEach((place, n) => { out[n] = image[place]; });
      else this.windows((n, place) => { out[n] += image[place] / this.pool ** 2; });
      return out;
    }
    up(lower, trace, weight = this.weight, bias = this.bias) {
      return this.pooled(this.convolved(lower, weight, bias), trace);
    }
    down(upper, trace, weight = this.backward || this.weight) {
      let image = upper;
      if (this.pool > 1) {
        image = zeros(size(this.convShape));
        if (trace) trace.forEach((place, n) => { image[place] += upper[n]; });
        else this.windows((n, place) => { image[place] += upper[n] / this.pool ** 2; });
      }
      const out = zeros(size(this.lowerShape));
      const { stride } = this;
      this.each((k, from, to, n) => {
        const w = weight[k];
        for (let i = 0; i < n; i++) out[to + i * stride] += w * image[from + i];
      });
      return out;
    }
  }

  const KINDS = { dense: Dense, "conv-pool": ConvPool };

  class Network {
    constructor(description) {
      Object.assign(this, description);
      this.edges = description.edges.map((edge) => new KINDS[edge.kind](edge));
      this.read = description.readout && new Dense(description.readout);
      this.rho = RHO[description.rho];
      this.realTime = description.kind === "real-time";
      this.last = this.shapes.length - 1;
      this.tied = !this.edges.some((edge) => edge.backward);
    }

    /* ε; Newton's steps have their own, beside which it is 1. */
    timeStep() { return this.updates === "newton" ? 1 : this.epsilon; }

    start() { return this.shapes.map((shape) => zeros(size(shape))); }

    groups() {
      return this.updates === "synchronous" ? [this.shapes.map((_, layer) => layer)] : this.classes;
    }

    sent(layer) { return this.realTime ? layer.map(this.rho.of) : layer; }

    /* What the input brings, computed once. */
    drive(x) {
      const drive = this.shapes.map(() => null);
      const sent = this.sent(Float64Array.from(x));
      for (const edge of this.edges)
        if (edge.lower < 0) {
          const brought = edge.up(sent, edge.trace(sent));
          drive[edge.upper] = drive[edge.upper] ? drive[edge.upper].map((d, i) => d + brought[i]) : brought;
        }
      return drive;
    }

    /* ŷ, what the network says. */
    output(state) {
      const s = state[this.last];
      return this.read ? this.read.up(s) : s;
    }

    /* ∂ℓ/∂s of the output layer. */
    costGradient(state, target) {
      const said = this.output(state);
      let g;
      if (this.cost.kind === "squared-error") g = said.map((v, i) => v - target[i]);
      else {
        const top = Math.max(...said);
        const e = said.map((v) => Math.exp(this.cost.scale * (v - top)));
        const sum = e.reduce((a, b) => a + b, 0);
        g = e.map((v, i) => v / sum - target[i]);
      }
      return this.read ? this.read.down(g) : g;
    }

    /* One transition; nudge: null or {target, beta}; record: what backward needs is put there. */
    step(drive, before, nudge = null, record = null) {
      const state = before.slice();
      let force = null;
      if (nudge) {
        const pull = this.costGradient(before, nudge.target);
        force = pull.map((g) => -nudge.beta * g);
      }
      for (const group of this.groups()) {
        const rates = state.map((layer) => this.sent(layer));
        const moves = group.map((layer) => {
          const current = drive[layer] ? drive[layer].slice() : zeros(size(this.shapes[layer]));
          const add = (v) => { for (let i = 0; i < v.length; i++) current[i] += v[i]; };
          const traces = new Map();
          this.edges.forEach((edge, number) => {
            if (edge.lower < 0) return;
            if (edge.upper === layer) {
              const trace = edge.trace(rates[edge.lower]);
              traces.set(`up ${number}`, trace);
              add(edge.up(rates[edge.lower], trace));
            }
            if (edge.lower === layer) {
              const trace = edge.trace(rates[layer]);
              traces.set(`down ${number}`, trace);
              add(edge.down(rates[edge.upper], trace));
            }
          });
          const own = layer === this.last ? force : null;
          const { after, passes } = this.moved(state[layer], current, own);
          return { layer, current, after, passes, traces, at: state[layer] };
        });
        if (record) record.push({ moves, state: state.slice() });
        for (const { layer, after } of moves) state[layer] = after;
      }
      return state;
    }

    /* By what the step of a unit in the current c, with a force f, is divided: of Newton's steps half of
       e″ + √(e″² + 2 M |c| |e′|), e the unit's energy, see eqprop.networks.real_time; of Euler's 1. And
       its derivatives by s and by c. */
    bent(s, c, f = 0) {
      if (this.updates !== "newton") return { by: 1, ds: 0, dc: 0 };
      const slope = this.rho.slope(s), second = this.rho.bend(s);
      const down = slope * c - s + f, curved = 1 - c * second;
      const root = Math.sqrt(curved ** 2 + 2 * this.sharpest * Math.abs(c * down));
      const by = (curved + root) / 2;
      if (!(by > 0.01)) return { by: 0.01, ds: 0, dc: 0 };
      const towards = Math.sign(down);
      const along = (bending, reaching) => (bending + (curved * bending + this.sharpest * reaching) / root) / 2;
      return {
        by,
        ds: along(-c * this.rho.third(s), -Math.abs(c) * towards * curved),
        dc: along(-second, Math.sign(c) * Math.abs(down) + Math.abs(c) * towards * slope),
      };
    }

    /* The time step of every unit, in the step that left this record: ε, or Newton's own. */
    paces(record) {
      const paces = this.shapes.map((shape) => zeros(size(shape)).fill(this.realTime ? this.timeStep() : 1));
      for (const { moves } of record || [])
        for (const { layer, current, at } of moves)
          paces[layer] = paces[layer].map((pace, i) => pace / this.bent(at[i], current[i]).by);
      return paces;
    }

    /* Where a layer goes, and which units the clip lets go there. */
    moved(s, current, force) {
      const inside = this.nudge === "inside";
      const passes = new Uint8Array(s.length).fill(1);
      const after = zeros(s.length);
      for (let i = 0; i < s.length; i++) {
        const f = force ? force[i] : 0;
        if (this.realTime) {
          const e = this.timeStep() / this.bent(s[i], current[i], f).by;
          after[i] = s[i] + e * (this.rho.slope(s[i]) * current[i] - s[i]) + e * f;
          if (this.clip) {
            const [low, high] = this.clip;
            passes[i] = after[i] >= low && after[i] <= high;
            after[i] = between(after[i], low, high);
          }
        } else after[i] = inside ? this.rho.of(current[i] + f) : this.rho.of(current[i]) + f;
      }
      return { after, passes };
    }

    /* ∂L/∂s before a step, of ∂L/∂s after it; record is what the step left. And that by every layer
       where it has just moved, which those see that move later in the same step. */
    back(record, gradient) {
      let g = gradient;
      const seen = g.slice();
      for (const { moves, state } of record.slice().reverse()) {
        const next = g.map((layer, l) => (moves.some((m) => m.layer === l) ? zeros(layer.length) : layer.slice()));
        for (const { layer, current, passes, traces, at } of moves) {
          seen[layer] = g[layer];
          const delta = zeros(at.length);
          for (let i = 0; i < at.length; i++) {
            if (!passes[i]) continue;
            if (this.realTime) {
              const { by, ds, dc } = this.bent(at[i], current[i]);
              const e = this.timeStep() / by;
              const slope = this.rho.slope(at[i]);
              // What is left to go counts where Newton's divisor depends on s and c.
              const left = (slope * current[i] - at[i]) / by;
              const own = this.rho.bend(at[i]) * current[i] - 1 - left * ds;
              next[layer][i] += g[layer][i] * (1 + e * own);
              delta[i] = e * (slope - left * dc) * g[layer][i];
            } else delta[i] = this.rho.slope(current[i]) * g[layer][i];
          }
          const into = (other, v) => {
            for (let i = 0; i < v.length; i++)
              next[other][i] += this.realTime ? this.rho.slope(state[other][i]) * v[i] : v[i];
          };
          this.edges.forEach((edge, number) => {
            if (edge.lower < 0) return;
            if (edge.upper === layer)
              into(edge.lower, edge.down(delta, traces.get(`up ${number}`), edge.weight));
            if (edge.lower === layer)
              into(edge.upper, edge.up(delta, traces.get(`down ${number}`), edge.backward || edge.weight, null));
          });
        }
        g = next;
      }
      return { before: g, seen };
    }

    /* −∂L/∂s_{T−t} for t = 0, 1, …, L = ℓ(s_T), of the records of the last steps. */
    backward(records, state, target) {
      let g = this.start();
      g[this.last] = Float64Array.from(this.costGradient(state, target));
      return records.slice().reverse().map((record) => {
        const { before, seen } = this.back(record, g);
        g = before;
        return seen.map((layer) => layer.map((v) => -v));
      });
    }

    /* What falls as the network settles; null where there is none, as the weights are untied. */
    energy(drive, state) {
      if (!this.tied) return null;
      const rates = state.map((layer) => this.sent(layer));
      let total = 0;
      state.forEach((layer, l) => {
        for (let i = 0; i < layer.length; i++) {
          total += this.realTime ? layer[i] ** 2 / 2 : this.rho.G(layer[i]);
          if (drive[l]) total -= drive[l][i] * rates[l][i];
        }
      });
      for (const edge of this.edges) {
        if (edge.lower < 0) continue;
        const up = edge.up(rates[edge.lower], edge.trace(rates[edge.lower]));
        for (let i = 0; i < up.length; i++) total -= up[i] * rates[edge.upper][i];
      }
      return total;
    }
  }

  /* The largest move of any unit. */
  const movement = (before, after) =>
    Math.max(...before.map((layer, l) => layer.reduce((most, v, i) => Math.max(most, Math.abs(after[l][i] - v)), 0)));

  return { Network, movement, size };
})();
if (typeof module !== "undefined") module.exports = Engine;
