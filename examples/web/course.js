/**
 * What the network is shown while it learns a new symbol: variations of a few examples, and digits drawn by rule, so that it
 * does not forget them. What is measured is measured on others.
 *
 * @typedef {import('./strokes.js').Stroke} Stroke
 * @typedef {{name: string, examples: Stroke[][]}} Lesson
 * @typedef {{images: Float32Array, labels: Uint32Array}} Batch  Images [B, 1, H, W], normalised.
 */

import { drawDigits } from './digits.js';
import { random, varied } from './strokes.js';

/**
 * A training run. A batch holds `fresh` variations of the new symbol, `earlier` of each symbol taught before, and digits, which
 * are at least half of it. It ends early once all of them are known.
 */
export const RUN = { steps: 120, batch: 32, fresh: 8, earlier: 5, learningRate: 1e-3, evaluateEvery: 5, known: 0.97 };

/** What accuracy is measured on. */
export const HELD_OUT = { digits: 100, variations: 30, seed: 20_000 };

/** Whether a model reads grey pictures, and its first ten classes are the digits. */
export function knowsDigits({ in_chans, class_names }) {
  return in_chans === 1 && Array.from('0123456789').every((name, i) => class_names?.[i] === name);
}

export class Course {
  #lessons;
  #classes;
  #input;
  #rng = random(1);
  #digitSeed = 1;

  /**
   * @param {Lesson[]} lessons  The last one is the new symbol; the others are replayed with the digits.
   * @param {string[]} classes
   * @param {(strokes: Stroke[], pen: number) => Float32Array} input  The network's input for a drawing.
   */
  constructor(lessons, classes, input) {
    this.#lessons = lessons;
    this.#classes = classes;
    this.#input = input;
    const rng = random(HELD_OUT.seed);
    const variations = Array.from({ length: HELD_OUT.variations }, (_, i) => this.#variation(lessons.at(-1), i, rng));
    /** @type {Batch} */
    this.heldOutDigits = this.#batch(drawDigits(HELD_OUT.digits, HELD_OUT.seed));
    /** @type {Batch} */
    this.heldOutSymbol = this.#batch(variations);
    const before = lessons.slice(0, -1);
    /** Of symbols taught before; null where there are none. @type {Batch | null} */
    this.heldOutEarlier = before.length
      ? this.#batch(Array.from({ length: HELD_OUT.variations }, (_, i) => this.#variation(before[i % before.length], i, rng)))
      : null;
  }

  /** One batch: the new symbol, those taught before, and digits. */
  next() {
    const rng = this.#rng;
    const any = (lesson) => this.#variation(lesson, Math.floor(rng() * lesson.examples.length), rng);
    const drawn = Array.from({ length: RUN.fresh }, () => any(this.#lessons.at(-1)));
    for (const lesson of this.#lessons.slice(0, -1)) drawn.push(...Array.from({ length: RUN.earlier }, () => any(lesson)));
    const replayed = Math.max(RUN.batch / 2, RUN.batch - drawn.length);
    // Not always the first few of the ten.
    const digits = drawDigits(10 * Math.ceil(replayed / 10), this.#digitSeed++);
    for (let i = 0; i < replayed; i++) drawn.push(...digits.splice(Math.floor(rng() * digits.length), 1));
    return this.#batch(drawn);
  }

  #variation({ name, examples }, i, rng) {
    const strokes = varied(examples[i % examples.length], rng, 0.9);
    return { strokes, label: this.#classes.indexOf(name), pen: 0.8 + 0.5 * rng() };
  }

  #batch(drawn) {
    const inputs = drawn.map(({ strokes, pen }) => this.#input(strokes, pen));
    const images = new Float32Array(inputs.length * inputs[0].length);
    inputs.forEach((input, i) => images.set(input, i * input.length));
    return { images, labels: Uint32Array.from(drawn, ({ label }) => label) };
  }
}
