/**
 * A pad to draw on with mouse, pen, finger or keyboard.
 *
 * Strokes are kept as points in a unit square; the canvas only shows them.
 *
 * @typedef {import('./strokes.js').Stroke} Stroke
 */

import { bounds, mapPoints } from './strokes.js';

const still = matchMedia('(prefers-reduced-motion: reduce)');

/** The pen's width on the pad, of the pad's side. */
const PEN = 0.065;

/** How far an arrow key moves the pen. */
const KEY_STEP = 1 / 40;

export class Pad extends EventTarget {
  /** @type {Stroke[]} */
  strokes = [];

  /** @type {ImageBitmap | null} */
  #picture = null;
  #canvas;
  #context;
  #pointer = null;
  #cursor = { x: 0.5, y: 0.3, down: false, shown: false };
  #animation = 0;

  /**
   * Sends 'change' whenever what is on the pad changes, 'start' when the visitor begins a stroke, 'say' for screen readers.
   * @param {HTMLCanvasElement} canvas
   */
  constructor(canvas) {
    super();
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d');
    canvas.addEventListener('pointerdown', (event) => this.#press(event));
    canvas.addEventListener('pointermove', (event) => this.#move(event));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (event) => this.#release(event));
    canvas.addEventListener('keydown', (event) => this.#key(event));
    canvas.addEventListener('blur', () => this.#lift());
    new ResizeObserver(() => this.#fit()).observe(canvas);
    addEventListener('themechange', () => this.draw());
    this.#fit();
  }

  get empty() {
    return this.strokes.length === 0 && !this.picture;
  }

  /** A picture that lies on the pad in place of strokes. @type {ImageBitmap | null} */
  get picture() {
    return this.#picture;
  }

  set picture(picture) {
    if (picture !== this.#picture) this.#picture?.close();
    this.#picture = picture;
  }

  focus() {
    this.#canvas.focus();
  }

  clear() {
    this.#stop();
    this.strokes = [];
    this.picture = null;
    this.#changed();
  }

  undo() {
    this.#stop();
    if (this.picture) this.picture = null;
    else this.strokes.pop();
    this.#changed();
  }

  /** Puts a picture on the pad, which closes it when another takes its place. @param {ImageBitmap} picture */
  show(picture) {
    this.#stop();
    this.strokes = [];
    this.picture = picture;
    this.#changed();
  }

  /**
   * Draws strokes of any size in the middle of the pad, as a hand would, or at once for those who want no motion.
   * @param {Stroke[]} strokes
   */
  play(strokes) {
    this.#stop();
    this.picture = null;
    const box = bounds(strokes);
    const scale = 0.62 / Math.max(box.width, box.height);
    const [cx, cy] = [box.left + box.width / 2, box.top + box.height / 2];
    const placed = mapPoints(strokes, ([x, y]) => [0.5 + (x - cx) * scale, 0.5 + (y - cy) * scale]);
    const total = placed.reduce((n, stroke) => n + stroke.length, 0);
    const begin = performance.now();
    const duration = still.matches ? 0 : 800;
    const frame = (now) => {
      const part = duration ? Math.min(1, Math.max(0, now - begin) / duration) : 1;
      let left = Math.max(1, Math.round(part * total));
      this.strokes = [];
      for (const stroke of placed) {
        if (left <= 0) break;
        this.strokes.push(stroke.slice(0, left));
        left -= stroke.length;
      }
      this.#animation = part < 1 ? requestAnimationFrame(frame) : 0;
      this.#changed();
    };
    frame(begin);
  }

  /** Whether a hand, the visitor's or that of `play`, is drawing at the moment. */
  get busy() {
    return this.#pointer !== null || this.#animation !== 0;
  }

  #stop() {
    cancelAnimationFrame(this.#animation);
    this.#animation = 0;
    this.#pointer = null;
    this.#cursor.down = false;
  }

  #changed() {
    this.draw();
    this.dispatchEvent(new Event('change'));
  }

  #say(text) {
    this.dispatchEvent(new CustomEvent('say', { detail: text }));
  }

  #begin(point) {
    this.picture = null;
    this.dispatchEvent(new Event('start'));
    this.strokes.push([point]);
    this.#changed();
  }

  // The pointer.

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const unit = (v) => Math.max(0, Math.min(1, v));
    return [unit((event.clientX - box.left) / box.width), unit((event.clientY - box.top) / box.height)];
  }

  #press(event) {
    if (this.#pointer !== null || event.button !== 0) return;
    this.#stop();
    this.#cursor.shown = false;
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#begin(this.#at(event));
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const stroke = this.strokes.at(-1);
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      const [point, last] = [this.#at(each), stroke.at(-1)];
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) > 0.004) stroke.push(point);
    }
    this.#changed();
  }

  #release(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.#changed();
  }

  // The keyboard.

  #key(event) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const cursor = this.#cursor;
    if (event.key in arrows) {
      const by = KEY_STEP * (event.shiftKey ? 4 : 1);
      const [dx, dy] = arrows[event.key];
      cursor.x = Math.max(0.05, Math.min(0.95, cursor.x + dx * by));
      cursor.y = Math.max(0.05, Math.min(0.95, cursor.y + dy * by));
      cursor.shown = true;
      if (cursor.down) {
        this.strokes.at(-1).push([cursor.x, cursor.y]);
        this.#changed();
      } else {
        this.draw();
      }
    } else if (event.key === ' ' || event.key === 'Enter') {
      cursor.shown = true;
      if (cursor.down) {
        this.#lift();
        this.#say('Pen up');
      } else {
        this.#stop();
        this.#begin([cursor.x, cursor.y]);
        cursor.down = true;
        this.#say('Pen down');
      }
    } else if (event.key === 'Escape' && cursor.down) {
      this.#lift();
      this.#say('Pen up');
    } else if (event.key === 'Backspace' || (event.key === 'z' && (event.ctrlKey || event.metaKey))) {
      this.#say(this.empty ? 'The pad is empty' : this.picture ? 'Picture taken away' : 'Stroke taken back');
      this.undo();
    } else if (event.key === 'Delete') {
      this.#say(this.empty ? 'The pad is empty' : 'Pad cleared');
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
  }

  #lift() {
    if (this.#cursor.down) {
      this.#cursor.down = false;
      this.#changed();
    }
    if (this.#cursor.shown && document.activeElement !== this.#canvas) {
      this.#cursor.shown = false;
      this.draw();
    }
  }

  // The canvas.

  #fit() {
    const side = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (side > 0 && this.#canvas.width !== side) this.#canvas.width = this.#canvas.height = side;
    this.draw();
  }

  draw() {
    const style = getComputedStyle(this.#canvas);
    this.#paint(this.#context, this.#canvas.width, style.color);
    if (this.#cursor.shown) this.#drawCursor(style);
  }

  /** What is on the pad, without the keyboard's pen, in a colour. @param {{ink: string}} how */
  copy({ ink }) {
    const side = this.#canvas.width;
    const canvas = new OffscreenCanvas(side, side);
    this.#paint(canvas.getContext('2d'), side, ink);
    return canvas;
  }

  #paint(context, side, ink) {
    context.clearRect(0, 0, side, side);
    if (this.picture) {
      const { width, height } = this.picture;
      const scale = side / Math.max(width, height);
      const box = [(side - width * scale) / 2, (side - height * scale) / 2, width * scale, height * scale];
      // A picture may be transparent; paper is white.
      context.fillStyle = '#fff';
      context.fillRect(...box);
      context.imageSmoothingEnabled = scale < 4;
      context.imageSmoothingQuality = 'high';
      context.drawImage(this.picture, ...box);
    }
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = PEN * side;
    context.lineCap = context.lineJoin = 'round';
    for (const stroke of this.strokes) trace(context, stroke, side);
  }

  #drawCursor(style) {
    const [context, side] = [this.#context, this.#canvas.width];
    const { x, y, down } = this.#cursor;
    context.beginPath();
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = context.fillStyle = style.getPropertyValue('--plus');
    context.arc(x * side, y * side, (PEN / 2) * side, 0, 2 * Math.PI);
    if (down) context.fill();
    context.stroke();
  }
}

/** One stroke as a smooth line through the middles of its points. */
export function trace(context, stroke, side) {
  const [first, ...rest] = stroke.map(([x, y]) => [x * side, y * side]);
  context.beginPath();
  context.moveTo(...first);
  if (rest.length === 0) context.lineTo(first[0] + 0.01, first[1]);
  let last = first;
  for (const point of rest) {
    context.quadraticCurveTo(...last, (last[0] + point[0]) / 2, (last[1] + point[1]) / 2);
    last = point;
  }
  context.lineTo(...last);
  context.stroke();
}
