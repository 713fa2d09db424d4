/**
 * What each attention head takes from where, over the drawing as the network sees it.
 *
 * @typedef {object} BlockAttention
 * @property {number} block
 * @property {number} heads
 * @property {number} height
 * @property {number} width
 * @property {Float32Array} map  [heads, height, width]
 */

import { colour } from './colours.js';

/** Pixels to a side of a map; the style sheet makes it larger, smoothly. */
const SIDE = 112;

export class Attention {
  #root;
  #tiles = [];
  #last = null;
  #seen = true;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    new IntersectionObserver(([entry]) => {
      this.#seen = entry.isIntersecting;
      this.#draw();
    }, { rootMargin: '200px' }).observe(root);
    addEventListener('themechange', () => this.#draw());
  }

  /** Makes room for the heads of a model. */
  prepare(blocks, heads) {
    if (this.#root.dataset.key === `${blocks} ${heads}`) return;
    this.#root.dataset.key = `${blocks} ${heads}`;
    this.#last = null;
    this.#tiles = [];
    this.#root.replaceChildren();
    for (let block = 0; block < blocks; block++) {
      for (let head = 0; head < heads; head++) {
        const figure = document.createElement('figure');
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [SIDE, SIDE];
        canvas.setAttribute('role', 'img');
        const caption = document.createElement('figcaption');
        caption.textContent = `Block ${block + 1}, head ${head + 1}`;
        canvas.setAttribute('aria-label', `${caption.textContent}: nothing yet`);
        figure.append(canvas, caption);
        this.#root.append(figure);
        this.#tiles.push({ canvas, name: caption.textContent });
      }
    }
  }

  /**
   * @param {BlockAttention[]} attention
   * @param {{pixels: Float32Array, size: number}} seen  The picture as the network sees it, values in [0, 1].
   */
  show(attention, seen) {
    this.prepare(attention.length, attention[0]?.heads ?? 0);
    this.#last = [attention, seen];
    this.#draw();
  }

  /** No drawing, nothing attended to. */
  clear() {
    this.#last = null;
    this.#draw();
  }

  #draw() {
    if (!this.#seen) return;
    if (!this.#last) {
      for (const { canvas, name } of this.#tiles) {
        canvas.getContext('2d').clearRect(0, 0, SIDE, SIDE);
        canvas.setAttribute('aria-label', `${name}: nothing yet`);
      }
      return;
    }
    const [attention, seen] = this.#last;
    const colours = { ground: colour('--ground'), ink: colour('--trace'), hot: colour('--plus') };
    attention.forEach(({ map, heads, height, width }, block) => {
      for (let head = 0; head < heads; head++) {
        const { canvas, name } = this.#tiles[block * heads + head];
        const part = map.subarray(head * height * width, (head + 1) * height * width);
        paint(canvas, part, width, height, seen, colours);
        canvas.setAttribute('aria-label', `${name}: ${place(part, width, height)}`);
      }
    });
  }
}

/** Where a map is strongest, in words. */
function place(map, width, height) {
  const most = Math.max(...map);
  if (!(most > 0)) return 'silent';
  const at = map.indexOf(most);
  const third = (v, n, names) => names[Math.min(2, Math.floor((3 * (v + 0.5)) / n))];
  const row = third(Math.floor(at / width), height, ['upper', '', 'lower']);
  const column = third(at % width, width, ['left', '', 'right']);
  return `strongest in the ${[row, column].filter(Boolean).join(' ') || 'middle'}`;
}

function paint(canvas, map, width, height, { pixels, size }, { ground, ink, hot }) {
  const most = Math.max(...map, 1e-9);
  const image = new ImageData(SIDE, SIDE);
  const heats = enlarged(map, width, height);
  const drawn = enlarged(pixels, size, size);
  for (let i = 0; i < SIDE * SIDE; i++) {
    const heat = (0.85 * heats[i]) / most;
    const line = 0.75 * drawn[i];
    for (let k = 0; k < 3; k++) {
      const warm = ground[k] + (hot[k] - ground[k]) * heat;
      image.data[4 * i + k] = warm + (ink[k] - warm) * line;
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

/** A grid at SIDE × SIDE, linearly between its points. */
function enlarged(grid, width, height) {
  const out = new Float32Array(SIDE * SIDE);
  const places = (n) =>
    Array.from({ length: SIDE }, (_, i) => {
      const at = Math.max(0, Math.min(n - 1, ((i + 0.5) / SIDE) * n - 0.5));
      const first = Math.min(n - 1, Math.floor(at));
      return [first, Math.min(n - 1, first + 1), at - first];
    });
  const columns = places(width);
  places(height).forEach(([top, bottom, fy], y) => {
    columns.forEach(([left, right, fx], x) => {
      const above = grid[top * width + left] * (1 - fx) + grid[top * width + right] * fx;
      const below = grid[bottom * width + left] * (1 - fx) + grid[bottom * width + right] * fx;
      out[y * SIDE + x] = above * (1 - fy) + below * fy;
    });
  });
  return out;
}
