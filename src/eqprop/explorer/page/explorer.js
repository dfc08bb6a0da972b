"use strict";

/* The page: what a person chooses, and what is drawn. All that is computed is Engine's. */
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);

  const bytes = Uint8Array.from(atob(data.arrays), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const numbers = new Float32Array(await new Response(stream).arrayBuffer());
  const array = ([begin, length]) => numbers.subarray(begin, begin + length);
  const described = data.network;
  for (const part of [...described.edges, ...(described.readout ? [described.readout] : [])])
    for (const name of ["weight", "bias", "backward"]) if (part[name]) part[name] = array(part[name]);
  const network = new Engine.Network(described);
  const [channels, height, width] = data.image;
  const pixels = channels * height * width;
  const images = array(data.samples.images);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const AT_REST = 0.01;

  /* What is looked at. */
  let x = images.slice(0, pixels);
  let drive, state, rest, paces, records, phase, t, moved, energies, history, gradients, playing;

  const chosen = (id, least) => Math.max(least, Math.round(Number(at(id).value)) || least);
  const beta = () => Number(at("beta").value) || data.beta;
  const target = () => Float64Array.from(data.classes, (_, c) => Number(c === Number(at("target").value)));

  function restart() {
    network.updates = at("updates").value;
    drive = network.drive(x);
    state = network.start();
    [rest, records, phase, t, moved, energies, history, gradients] = [null, [], "free", 0, [], [], [state], null];
    pause();
    draw();
  }

  function nudge() {
    if (phase === "free") {
      [rest, phase, t] = [state, "nudged", 0];
      paces = network.paces(records[records.length - 1]);
      history = [state];
      const steps = network.backward(records.slice(-chosen("K", 1)), state, target());
      // What has come back after t steps: the sum of the first t of them.
      const sum = network.start();
      gradients = [sum.map((layer) => layer.slice())];
      for (const step of steps) {
        step.forEach((layer, l) => layer.forEach((v, i) => { sum[l][i] += v; }));
        gradients.push(sum.map((layer) => layer.slice()));
      }
    } else {
      restart();
      return;
    }
    draw();
  }

  /* The same from where it rests, after something of the nudge was changed. */
  function again() {
    if (phase === "free") return draw();
    moved.length -= t;
    energies.length -= t;
    [state, phase, t] = [rest, "free", moved.length];
    nudge();
  }

  function step() {
    const before = state;
    const record = [];
    state = network.step(drive, state, phase === "nudged" ? { target: target(), beta: beta() } : null, record);
    if (phase === "free") records.push(record);
    moved.push(Engine.movement(before, state));
    const energy = network.energy(drive, state);
    energies.push(energy);
    history.push(state);
    if (history.length > 3) history.shift();
    t += 1;
    if (t >= (phase === "free" ? chosen("T", 1) : chosen("K", 1))) pause();
    draw();
  }

  let timer = null;
  function play() {
    if (t >= (phase === "free" ? chosen("T", 1) : chosen("K", 1))) return;
    playing = true;
    at("play").textContent = "Pause";
    const tick = () => {
      if (!playing) return;
      step();
      if (playing) timer = setTimeout(tick, 1000 / Number(at("speed").value));
    };
    tick();
  }
  function pause() {
    playing = false;
    clearTimeout(timer);
    at("play").textContent = "Play";
  }

  /* Colours: from the page's ground for 0 to blue for 1; and orange below, blue above 0. */
  const ground = dark ? [30, 35, 41] : [255, 255, 255];
  const UP = dark ? [108, 184, 255] : [0, 70, 140];
  const DOWN = dark ? [255, 157, 92] : [179, 71, 0];
  const mixed = (to, share) => ground.map((from, i) => from + (to[i] - from) * Math.min(1, share));
  const colour = (v, most) => (v >= 0 ? mixed(UP, v / most) : mixed(DOWN, -v / most));

  /* Units as pixels: the channels of images side by side, other layers as a block. */
  function paint(canvas, values, shape, most) {
    const [c, h, w] = shape.length === 3 ? shape : [1, ...block(Engine.size(shape))];
    const across = c > 1 ? Math.ceil(Math.sqrt(c * 1.6)) : 1;
    const gap = c > 1 ? 1 : 0;
    canvas.width = across * (w + gap) - gap;
    canvas.height = Math.ceil(c / across) * (h + gap) - gap;
    const scale = Math.max(1, Math.floor(170 / canvas.width));
    canvas.style.width = `${canvas.width * scale}px`;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    for (let n = 0; n < values.length; n++) {
      const k = Math.floor(n / (h * w)), y = Math.floor(n / w) % h, z = n % w;
      const place = (Math.floor(k / across) * (h + gap) + y) * canvas.width + (k % across) * (w + gap) + z;
      image.data.set([...colour(values[n], most), 255], 4 * place);
    }
    context.putImageData(image, 0, 0);
  }
  function block(n) {
    const w = Math.ceil(Math.sqrt(n * 1.6));
    return [Math.ceil(n / w), w];
  }

  /* The parts of the page that each layer has. */
  const views = described.shapes.map((shape, l) => {
    const layer = document.createElement("div");
    layer.className = "layer";
    const heading = document.createElement("p");
    const [name, units] = ["strong", "span"].map((kind) => document.createElement(kind));
    // As text: whoever made the network has named its layers.
    name.textContent = described.names[l];
    units.textContent = ` ${shape.join(" × ")} units`;
    units.className = "quiet";
    heading.append(name, units);
    layer.append(heading);
    const row = document.createElement("div");
    row.className = "views";
    const found = {};
    for (const [name, caption] of [["state", "state"], ["difference", "moved by"], ["gradient", "BPTT"]]) {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${described.names[l]}: ${caption}`);
      const text = document.createElement("figcaption");
      text.textContent = caption;
      figure.append(canvas, text);
      row.append(figure);
      found[name] = { figure, canvas, text };
    }
    layer.append(row);
    at("layers").append(layer);
    return found;
  });
  const bars = document.createElement("div");
  bars.className = "bars";
  const title = document.createElement("p");
  title.innerHTML = "<strong>What it says</strong>";
  at("layers").append(title, bars);
  const rows = data.classes.map((name) => {
    const parts = ["span", "div", "span"].map((kind) => document.createElement(kind));
    parts[0].textContent = name;
    parts[1].className = "bar";
    bars.append(...parts);
    return parts;
  });

  const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

  /* How far the units of a layer have moved since they were nudged, ÷ β and their time step: Δ_s. */
  const moves = (l) => state[l].map((v, i) => (v - rest[l][i]) / (beta() * paces[l][i]));
  const dividedBy = network.realTime ? "εβ" : "β";

  function draw() {
    const free = phase === "free";
    state.forEach((layer, l) => {
      const { state: now, difference, gradient } = views[l];
      paint(now.canvas, layer, described.shapes[l], Math.max(1e-9, described.rho === "tanh" ? largest(layer) : 1));
      difference.figure.hidden = gradient.figure.hidden = free;
      if (free) return;
      const change = moves(l);
      const back = gradients[Math.min(t, gradients.length - 1)][l];
      const most = Math.max(1e-12, largest(change), largest(back));
      paint(difference.canvas, change, described.shapes[l], most);
      paint(gradient.canvas, back, described.shapes[l], most);
      difference.text.textContent = `moved by, ÷ ${dividedBy} (most ${largest(change).toPrecision(2)})`;
      const apart = Math.hypot(...change.map((v, i) => v - back[i])) / Math.max(1e-12, Math.hypot(...back));
      gradient.text.textContent = largest(back) ? `BPTT (relative error ${apart.toPrecision(2)})` : "BPTT: nothing yet";
    });
    const said = network.output(state);
    const top = Math.max(...said), least = Math.min(0, ...said);
    // Before the first step nothing was said.
    const winner = t > 0 || !free ? said.indexOf(top) : -1;
    rows.forEach(([name, bar, number], c) => {
      bar.style.width = `${(100 * (said[c] - least)) / Math.max(1e-9, Math.max(1, top) - least)}%`;
      number.textContent = said[c].toFixed(3);
      name.className = c === winner ? "said" : "";
    });
    at("nudge").textContent = free ? "Nudge" : "Back to free";
    at("status").replaceChildren(...status(winner));
    plot();
  }

  function status(winner) {
    const word = document.createElement("span");
    word.className = phase;
    word.textContent = phase === "free" ? "free phase" : "nudged phase";
    const last = moved[moved.length - 1];
    let how = "";
    if (t > 0) {
      const still = AT_REST * (network.realTime ? network.timeStep() : 1) * (phase === "free" ? 1 : Math.min(1, Math.abs(beta())));
      const back = history.length > 2 ? Engine.movement(history[0], history[history.length - 1]) : Infinity;
      if (last <= still) how = "at rest";
      // As a two-cycle, if it is not about to end.
      else if (back <= last / 2 && last > 0.9 * moved[moved.length - 2]) how = "goes to and fro between two states";
      else how = "still moves";
      how = `: ${how} (largest move ${last.toExponential(1)})`;
    }
    const says = winner >= 0 ? `; says ${data.classes[winner]}` : "";
    return [word, `, step ${t} of ${phase === "free" ? chosen("T", 1) : chosen("K", 1)}${how}${says}`];
  }

  /* The largest move and the energy, over all steps taken. */
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--text"), line = style.getPropertyValue("--line");
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "12px system-ui" };
  const series = (label, colour) =>
    ({ label, stroke: style.getPropertyValue(colour), width: 2, points: { show: true, size: 5 } });
  const whole = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-6;
  const decades = (plot, ticks) => ticks.map((v) => (v !== null && whole(v) ? v.toExponential(0) : ""));
  // Of many decades the lines in between would be one grey area.
  const filter = (plot, splits) => splits.map((v) => (whole(v) ? v : null));
  const log = { values: decades, grid: { ...axis.grid, filter }, ticks: { ...axis.ticks, filter } };
  const opts = (label, logarithmic) => ({
    width: 300, height: 210, title: label, legend: { show: false },
    scales: { x: { time: false }, y: logarithmic ? { distr: 3 } : {} },
    axes: [{ ...axis, label: "step", labelFont: "12px system-ui" }, { ...axis, size: 64, ...(logarithmic ? log : {}) }],
    series: [{ label: "step" }, series("free phase", "--free"), series("nudged phase", "--nudged")],
  });
  const residualPlot = new uPlot(opts("largest move in a step", true), [[], [], []], at("residual"));
  const energyPlot = network.tied ? new uPlot(opts("energy, without the nudge", false), [[], [], []], at("energy")) : null;
  if (!network.tied)
    at("no-energy").textContent = "Forward and backward weights differ: there is no energy that falls.";
  function plot() {
    const steps = moved.map((_, i) => i + 1);
    const ended = phase === "free" ? moved.length : moved.length - t;
    const both = (values) => [steps, values.map((v, i) => (i < ended ? v : null)), values.map((v, i) => (i < ended ? null : v))];
    residualPlot.setData(both(moved.map((m) => Math.max(m, 1e-17))));
    if (energyPlot) energyPlot.setData(both(energies));
  }

  /* The input: test images, and what is drawn. */
  const canvas = at("drawing");
  [canvas.width, canvas.height] = [width, height];
  function show() {
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const [low, high] = data.range;
    for (let n = 0; n < height * width; n++) {
      const level = [0, 1, 2].map((c) => (255 * (x[(channels === 3 ? c : 0) * height * width + n] - low)) / (high - low));
      image.data.set([...level, 255], 4 * n);
    }
    context.putImageData(image, 0, 0);
  }
  function sample() {
    const n = Number(at("sample").value);
    x = images.slice(n * pixels, (n + 1) * pixels);
    at("sample-said").textContent = `${n + 1}: ${data.classes[data.samples.labels[n]]}`;
    at("target").value = data.samples.labels[n];
    show();
    restart();
  }
  if (data.drawable) {
    let down = false;
    const ink_at = (event) => {
      const box = canvas.getBoundingClientRect();
      const cx = ((event.clientX - box.left) / box.width) * width, cy = ((event.clientY - box.top) / box.height) * height;
      const radius = Math.max(0.7, width / 22);
      for (let y = 0; y < height; y++)
        for (let z = 0; z < width; z++) {
          const near = 1 - (Math.hypot(z + 0.5 - cx, y + 0.5 - cy) - radius) / 1.2;
          x[y * width + z] = Math.max(x[y * width + z], Math.min(1, Math.max(0, near)));
        }
      show();
      restart();
    };
    canvas.addEventListener("pointerdown", (event) => { down = true; canvas.setPointerCapture(event.pointerId); ink_at(event); });
    canvas.addEventListener("pointermove", (event) => { if (down) ink_at(event); });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => { if (down) { down = false; play(); } });
    at("clear").addEventListener("click", () => { x = new Float32Array(pixels); at("sample-said").textContent = "drawn"; show(); restart(); });
  } else {
    canvas.classList.add("still");
    canvas.setAttribute("aria-label", "the input image");
    at("clear").disabled = true;
  }

  data.classes.forEach((name, c) => at("target").add(new Option(name, c)));
  at("sample").max = data.samples.labels.length - 1;
  at("T").value = data.T;
  at("K").value = data.K;
  at("beta").value = data.beta;
  if (!network.realTime) at("updates").querySelector("[value=newton]").remove();
  at("updates").value = described.updates;
  const speed = () => { at("speed-said").textContent = `${at("speed").value} steps a second`; };
  speed();
  at("speed").addEventListener("input", speed);
  at("sample").addEventListener("input", sample);
  at("updates").addEventListener("change", restart);
  for (const id of ["target", "T", "K", "beta"]) at(id).addEventListener("change", again);
  at("play").addEventListener("click", () => (playing ? pause() : play()));
  at("step").addEventListener("click", () => { pause(); step(); });
  at("restart").addEventListener("click", restart);
  at("nudge").addEventListener("click", nudge);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { " ": () => (playing ? pause() : play()), ArrowRight: () => { pause(); step(); }, r: restart, n: nudge };
    if (!(event.key in keys) || (event.key === " " && event.target.matches("button"))) return;
    event.preventDefault();
    keys[event.key]();
  });

  sample();
  /* For those who look from outside, tests among them. */
  window.explorer = {
    network,
    input: () => x,
    state: () => state.map((layer) => Array.from(layer)),
    differences: () => (rest ? state.map((_, l) => Array.from(moves(l))) : null),
    gradients: () => (gradients ? gradients[Math.min(t, gradients.length - 1)].map((layer) => Array.from(layer)) : null),
    energies: () => energies, moved: () => moved, step, nudge, restart,
  };
  document.body.dataset.ready = "yes";
})();
