/** The lines of a training run: two accuracies from 0 to 1, and the loss below its highest. */

/** The chart is at least so many steps wide. */
const LEAST_STEPS = 50;

export class Chart {
  #canvas;
  #symbol = [];
  #digits = [];
  #loss = [];

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    addEventListener('themechange', () => this.#draw());
  }

  clear() {
    this.#symbol = [];
    this.#digits = [];
    this.#loss = [];
    this.describe('nothing yet');
    this.#draw();
  }

  accuracy(step, symbol, digits) {
    this.#symbol.push([step, symbol]);
    this.#digits.push([step, digits]);
    this.#draw();
  }

  loss(step, value) {
    this.#loss.push([step, value]);
    this.#draw();
  }

  describe(text) {
    this.#canvas.setAttribute('aria-label', `Accuracy and loss during training: ${text}`);
  }

  #draw() {
    const canvas = this.#canvas;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (width === 0) return;
    const scale = devicePixelRatio;
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const context = canvas.getContext('2d');
    context.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const [left, right, top, bottom] = [44, width - 8, 10, height - 10];
    const steps = Math.max(LEAST_STEPS, this.#loss.at(-1)?.[0] ?? 0);
    const place = ([step, part]) => [left + (step / steps) * (right - left), bottom - part * (bottom - top)];

    context.font = `11px ${style.fontFamily}`;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    context.lineWidth = 1;
    for (const part of [0, 0.5, 1]) {
      const [, y] = place([0, part]);
      context.strokeStyle = style.getPropertyValue('--line');
      line(context, [[left, y], [right, y]]);
      context.fillStyle = style.getPropertyValue('--quiet');
      context.fillText(`${100 * part} %`, left - 6, y);
    }

    const highest = Math.max(...this.#loss.map(([, value]) => value), 1e-6);
    context.lineJoin = 'round';
    context.lineWidth = 1.5;
    context.strokeStyle = style.getPropertyValue('--faint');
    line(context, this.#loss.map(([x, value]) => place([x, value / highest])));
    context.lineWidth = 2.5;
    context.strokeStyle = style.getPropertyValue('--minus');
    line(context, this.#digits.map(place));
    context.strokeStyle = style.getPropertyValue('--plus');
    line(context, this.#symbol.map(place));
  }
}

function line(context, points) {
  if (points.length === 0) return;
  context.beginPath();
  points.forEach((point, i) => (i === 0 ? context.moveTo(...point) : context.lineTo(...point)));
  context.stroke();
}
