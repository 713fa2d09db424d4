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

import { colour, mix } from './colours.js';

const SIDE = 224;

export class Attention {
  #root;
  #tiles = [];
  #last = null;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    addEventListener('themechange', () => this.#last && this.show(...this.#last));
  }

  /** Makes room for the heads of a model. */
  prepare(blocks, heads) {
    if (this.#tiles.length === blocks * heads) return;
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
        canvas.setAttribute('aria-label', caption.textContent);
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
    this.#last = [attention, seen];
    const heads = attention[0]?.heads ?? 0;
    this.prepare(attention.length, heads);
    const colours = { ground: colour('--ground'), ink: colour('--trace'), hot: colour('--plus') };
    attention.forEach(({ map, height, width }, block) => {
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
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const heat = Math.max(0, between(map, width, height, ((x + 0.5) / SIDE) * width - 0.5, ((y + 0.5) / SIDE) * height - 0.5)) / most;
      const drawn = between(pixels, size, size, ((x + 0.5) / SIDE) * size - 0.5, ((y + 0.5) / SIDE) * size - 0.5);
      const [r, g, b] = mix(mix(ground, hot, 0.85 * heat), ink, 0.75 * drawn);
      image.data.set([r, g, b, 255], 4 * (y * SIDE + x));
    }
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

/** A grid's value between its points, linearly. */
function between(grid, width, height, x, y) {
  const [x0, y0] = [Math.floor(x), Math.floor(y)];
  const [fx, fy] = [x - x0, y - y0];
  const at = (i, j) => grid[Math.max(0, Math.min(height - 1, j)) * width + Math.max(0, Math.min(width - 1, i))];
  return (at(x0, y0) * (1 - fx) + at(x0 + 1, y0) * fx) * (1 - fy) + (at(x0, y0 + 1) * (1 - fx) + at(x0 + 1, y0 + 1) * fx) * fy;
}
