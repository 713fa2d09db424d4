/**
 * Every spike of every layer: one row a layer, one panel a timestep, one pixel a neuron.
 *
 * A layer's feature maps lie side by side in its panel, told apart by two tints of the ground.
 *
 * @typedef {object} Layer
 * @property {string} name
 * @property {'spikes' | 'ternary'} kind
 * @property {number[]} shape  [T, B, C, H, W]
 * @property {Int8Array} [data]
 * @property {number[]} [ratePerTimestep]
 */

import { colour } from './colours.js';

/** About how many neurons wide a panel is, and how many pixels where all timesteps are shown (see style.css). */
const PANEL = 224;

/** How long a timestep is shown, in milliseconds. */
const STEP_TIME = 650;

/** What a layer is, in words. */
const WORDS = [
  [/^patch_embed\.proj_lif(\d?)$/, (m) => `Convolution ${Number(m[1] || 0) + 1}`],
  [/shortcut_lif$/, () => 'Attention input'],
  [/attn\.q_lif$/, () => 'Queries'],
  [/attn\.k_lif$/, () => 'Keys'],
  [/attn\.v_lif$/, () => 'Values'],
  [/attn\.attn_lif$/, () => 'Attention output'],
  [/mlp\.fc1_lif$/, () => 'MLP input'],
  [/mlp\.fc2_lif$/, () => 'MLP hidden'],
  [/^head_lif$/, () => 'Before the classes'],
  // Not of neurons: what residuals come from.
  [/^patch_embed$/, () => 'Sum'],
  [/^patch_embed\.proj_conv(\d?)$/, (m) => `Convolution ${Number(m[1] || 0) + 1}`],
  [/\.attn$/, () => 'Attention'],
  [/\.mlp$/, () => 'MLP'],
];

export function words(name) {
  for (const [pattern, say] of WORDS) {
    const match = name.match(pattern);
    if (match) return say(match);
  }
  return name;
}

/** The part of the network that a layer belongs to. */
export function part(name) {
  const block = name.match(/^block\.(\d+)\./);
  if (block) return `Block ${Number(block[1]) + 1}`;
  return name.startsWith('patch_embed') ? 'Patches' : 'Head';
}

/** How the maps of a layer lie in a panel. */
function mosaic([, , channels, height, width]) {
  const columns = Math.max(1, Math.min(channels, Math.floor(PANEL / width)));
  const rows = Math.ceil(channels / columns);
  return { columns, rows, width: columns * width, height: rows * height };
}

const percent = (rate) => `${(100 * rate).toFixed(rate < 0.0995 ? 1 : 0)} %`;

export class Raster {
  #root;
  #ui;
  #rows = new Map();
  #steps = 0;
  #step = 0;
  #timer = 0;
  #sideBySide = false;
  #fits = true;
  #seen = true;
  /** @type {Layer[]} */
  #layers = [];
  #outdated = false;
  /** Whether the visitor has chosen what to look at. */
  #chosen = false;

  /**
   * @param {HTMLElement} root
   * @param {{play: HTMLButtonElement, step: HTMLInputElement, now: HTMLElement, together: HTMLButtonElement,
   *   glimpse: HTMLCanvasElement, said: HTMLElement, onneuron: (question: object) => void}} ui  `glimpse` shows the first layer,
   *   `said` which timestep; `onneuron` is told which neuron is pointed at, and at which timestep.
   */
  constructor(root, ui) {
    this.#root = root;
    this.#ui = ui;
    ui.play.addEventListener('click', () => (this.#timer ? this.pause() : this.play()));
    ui.step.addEventListener('input', () => {
      this.pause();
      this.#go(Number(ui.step.value) - 1, true);
    });
    ui.together.addEventListener('click', () => {
      this.#sideBySide = !this.#sideBySide;
      this.#arrange();
    });
    root.addEventListener('click', (event) => this.#point(event));
    new ResizeObserver(() => this.#arrange()).observe(root);
    new IntersectionObserver(([entry]) => {
      this.#seen = entry.isIntersecting;
      if (this.#seen && this.#outdated) this.#paint();
    }, { rootMargin: '200px' }).observe(root);
    addEventListener('themechange', () => {
      this.#paint();
      this.#paintGlimpse();
    });
  }

  /**
   * Makes room for layers, so that nothing moves when their spikes arrive.
   * @param {Layer[]} layers
   */
  prepare(layers) {
    const key = JSON.stringify(layers.map(({ name, shape }) => [name, shape]));
    if (this.#root.dataset.key === key) return;
    this.#root.dataset.key = key;
    this.#root.replaceChildren();
    this.#rows.clear();
    this.#layers = [];
    this.#steps = layers[0].shape[0];
    this.#ui.step.max = String(this.#steps);

    let group = null;
    for (const layer of layers) {
      const name = part(layer.name);
      if (group?.dataset.part !== name) {
        group = element('div', `part${name.startsWith('Block') ? ' block' : ''}`);
        group.dataset.part = name;
        group.append(element('h3', '', name));
        this.#root.append(group);
      }
      group.append(this.#row(layer));
    }
    this.#arrange();
    this.#go(Math.min(this.#step, this.#steps - 1), false);
  }

  #row(layer) {
    const [, , channels, height, width] = layer.shape;
    const { width: w, height: h } = mosaic(layer.shape);
    const row = element('div', 'layer');
    const name = element('div', 'layername');
    name.append(element('b', '', words(layer.name)), element('span', 'quiet', `${channels} × ${height} × ${width}`));
    name.title = layer.name;
    const panels = element('div', 'panels');
    const canvases = Array.from({ length: this.#steps }, () => {
      const canvas = element('canvas', 'panel');
      [canvas.width, canvas.height] = [w, h];
      canvas.setAttribute('aria-hidden', 'true');
      return canvas;
    });
    panels.append(...canvases);
    const rate = element('div', 'rate');
    const chart = element('span', 'ratebars');
    chart.setAttribute('role', 'img');
    chart.setAttribute('aria-label', 'Nothing yet');
    const bars = Array.from({ length: this.#steps }, () => element('i', ''));
    chart.append(...bars);
    const number = element('span', 'number', '–');
    rate.append(chart, number);
    row.append(name, panels, rate);
    this.#rows.set(layer.name, { canvases, chart, bars, number });
    return row;
  }

  /** @param {Layer[]} layers  With data. */
  show(layers) {
    this.prepare(layers);
    this.#layers = layers;
    this.#outdated = true;
    if (this.#seen) this.#paint();
    this.#paintGlimpse();
  }

  #paintGlimpse() {
    const { glimpse, said } = this.#ui;
    const [layer] = this.#layers;
    said.textContent = `First layer, timestep ${this.#step + 1} of ${this.#steps}`;
    if (!layer) return;
    const { width, height } = mosaic(layer.shape);
    if (glimpse.width !== width || glimpse.height !== height) [glimpse.width, glimpse.height] = [width, height];
    paint(glimpse, layer, this.#step, shades());
  }

  /** Tells which neuron a click points at. @param {MouseEvent} event */
  #point({ target, clientX, clientY }) {
    const found = [...this.#rows].find(([, { canvases }]) => canvases.includes(target));
    if (!found || this.#layers.length === 0) return;
    const [name, { canvases }] = found;
    const [, , channels, height, width] = this.#layers.find((layer) => layer.name === name).shape;
    const { left, top, width: w, height: h } = target.getBoundingClientRect();
    const at = (offset, shown, pixels) => Math.min(pixels - 1, Math.max(0, Math.floor((offset / shown) * pixels)));
    const [x, y] = [at(clientX - left, w, target.width), at(clientY - top, h, target.height)];
    const { columns } = mosaic([1, 1, channels, height, width]);
    const channel = Math.floor(y / height) * columns + Math.floor(x / width);
    if (channel >= channels) return;
    this.pause();
    this.#ui.onneuron({ layer: name, timestep: canvases.indexOf(target) + 1, line: y % height, column: x % width, channel });
  }

  /**
   * The next neuron of a layer that fires at the timestep that is shown, after `place` and around from the start; null where none
   * does.
   * @param {string} name
   * @param {{line: number, column: number, channel: number} | null} place
   */
  next(name, place) {
    const layer = this.#layers.find((each) => each.name === name);
    if (!layer) return null;
    const [, , channels, height, width] = layer.shape;
    const neurons = channels * height * width;
    const start = place ? (place.channel * height + place.line) * width + place.column + 1 : 0;
    for (let i = 0; i < neurons; i++) {
      const at = (start + i) % neurons;
      if (layer.data[this.#step * neurons + at] === 0) continue;
      const channel = Math.floor(at / (height * width));
      return { layer: name, timestep: this.#step + 1, line: Math.floor(at / width) % height, column: at % width, channel };
    }
    return null;
  }

  /** Nothing fires. */
  clear() {
    if (this.#layers.length === 0) return;
    this.show(this.#layers.map((layer) => ({
      ...layer,
      data: new Int8Array(layer.data.length),
      ratePerTimestep: layer.ratePerTimestep.map(() => 0),
    })));
  }

  #paint() {
    this.#outdated = false;
    const colours = shades();
    for (const layer of this.#layers) {
      const { canvases, chart, bars, number } = this.#rows.get(layer.name);
      canvases.forEach((canvas, t) => {
        // In the view of one timestep only that one is visible; the others are painted when their turn comes.
        if (this.#single && t !== this.#step) return;
        paint(canvas, layer, t, colours);
      });
      const rates = layer.ratePerTimestep;
      const mean = rates.reduce((a, b) => a + b, 0) / rates.length;
      bars.forEach((bar, t) => bar.style.setProperty('--p', Math.min(1, rates[t] / 0.5).toFixed(3)));
      number.textContent = percent(mean);
      chart.setAttribute('aria-label', `${part(layer.name)}, ${words(layer.name)}: fires at ${rates.map(percent).join(', ')}`);
    }
  }

  get #single() {
    return !this.#sideBySide || !this.#fits;
  }

  #arrange() {
    const [names, rates, gaps] = [136, 92, 24 + 6 * (this.#steps - 1)];
    this.#fits = this.#root.clientWidth >= names + rates + gaps + this.#steps * PANEL;
    this.#root.classList.toggle('single', this.#single);
    this.#ui.together.setAttribute('aria-pressed', String(!this.#single));
    this.#ui.together.hidden = !this.#fits;
    this.#root.style.setProperty('--steps', String(this.#steps));
    this.#mark();
    this.#paint();
  }

  /** Shows a timestep. */
  #go(step, chosen) {
    this.#step = step;
    this.#ui.step.value = String(step + 1);
    this.#ui.step.setAttribute('aria-valuetext', `${step + 1} of ${this.#steps}`);
    this.#ui.now.textContent = `${step + 1} of ${this.#steps}`;
    this.#root.classList.toggle('stepped', chosen || this.#timer !== 0);
    this.#mark();
    if (this.#single && this.#seen) this.#paint();
    this.#paintGlimpse();
  }

  #mark() {
    for (const { canvases, bars } of this.#rows.values()) {
      canvases.forEach((canvas, t) => canvas.classList.toggle('now', t === this.#step));
      bars.forEach((bar, t) => bar.classList.toggle('now', t === this.#step));
    }
  }

  /** Plays by itself, unless the visitor has chosen a timestep or a neuron. */
  begin() {
    if (!this.#chosen) this.play();
  }

  play() {
    if (this.#timer) return;
    this.#timer = setInterval(() => {
      if (!document.hidden) this.#go((this.#step + 1) % this.#steps, true);
    }, STEP_TIME);
    this.#root.classList.add('stepped');
    this.#ui.play.textContent = 'Pause';
  }

  pause() {
    this.#chosen = true;
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#root.classList.remove('stepped');
    this.#ui.play.textContent = 'Play';
  }
}

const shades = () => ({
  plus: rgba(colour('--plus')),
  minus: rgba(colour('--minus')),
  tints: [rgba(colour('--ground')), rgba(colour('--ground-2'))],
});

const rgba = ([r, g, b]) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;

function paint(canvas, { shape, data }, t, { plus, minus, tints }) {
  const [, batch, channels, height, width] = shape;
  const { columns } = mosaic(shape);
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  let at = t * batch * channels * height * width;
  for (let c = 0; c < channels; c++) {
    const [column, row] = [c % columns, Math.floor(c / columns)];
    const tint = tints[(column + row) % 2];
    for (let y = 0; y < height; y++) {
      let to = (row * height + y) * canvas.width + column * width;
      for (let x = 0; x < width; x++, at++, to++) pixels[to] = data[at] === 0 ? tint : data[at] > 0 ? plus : minus;
    }
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function element(tag, name, text = '') {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  return made;
}
