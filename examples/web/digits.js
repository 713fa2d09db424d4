/**
 * Digits drawn by rule: the samples that the page draws, and those that are replayed while it learns a new symbol.
 *
 * They are no data set: each is made from the few lines below, by a hand that never draws it twice alike.
 */

import { random, varied } from './strokes.js';

/** @typedef {import('./strokes.js').Stroke} Stroke */

/** Part of an ellipse, from one angle to another in degrees; 0 is right and 90 is down. */
function arc(cx, cy, rx, ry, from, to) {
  const n = Math.ceil(Math.abs(to - from) / 9);
  return Array.from({ length: n + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / n) * Math.PI) / 180;
    return [cx + rx * Math.cos(angle), cy + ry * Math.sin(angle)];
  });
}

/** A cubic Bézier curve. */
function curve(a, b, c, d) {
  return Array.from({ length: 21 }, (_, i) => {
    const [t, s] = [i / 20, 1 - i / 20];
    const at = (k) => s * s * s * a[k] + 3 * s * s * t * b[k] + 3 * s * t * t * c[k] + t * t * t * d[k];
    return [at(0), at(1)];
  });
}

/** Straight lines from point to point, in steps. */
function line(...points) {
  const steps = 8;
  const out = [points[0]];
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    for (let k = 1; k <= steps; k++) out.push([a[0] + ((b[0] - a[0]) * k) / steps, a[1] + ((b[1] - a[1]) * k) / steps]);
  }
  return out;
}

/**
 * The ways in which people write each digit, as strokes in a box of 1 × 1, y down.
 * @type {Stroke[][][]}
 */
const WAYS = [
  [
    [arc(0.5, 0.5, 0.34, 0.5, -75, 292)],
    [arc(0.5, 0.5, 0.42, 0.48, -95, 270)],
    [[...curve([0.62, 0.02], [0.16, 0.02], [0.02, 0.98], [0.42, 0.98]), ...curve([0.42, 0.98], [0.88, 0.98], [0.94, 0.1], [0.58, 0.03])]],
  ],
  [
    [line([0.54, 0], [0.48, 1])],
    [line([0.62, 0], [0.38, 1])],
    [line([0.3, 0.22], [0.54, 0], [0.54, 1])],
    [line([0.32, 0.24], [0.52, 0], [0.52, 1]), line([0.24, 1], [0.8, 1])],
  ],
  [
    [[...arc(0.46, 0.28, 0.31, 0.28, 195, 375), ...curve([0.76, 0.35], [0.72, 0.6], [0.4, 0.8], [0.12, 0.96]), ...curve([0.12, 0.96], [0.4, 0.9], [0.6, 0.98], [0.88, 0.94])]],
    [[...arc(0.48, 0.28, 0.3, 0.28, 200, 380), ...line([0.76, 0.38], [0.14, 1], [0.88, 1])]],
    [[...curve([0.16, 0.24], [0.26, -0.1], [0.86, -0.06], [0.76, 0.34]), ...curve([0.76, 0.34], [0.7, 0.6], [0.42, 0.84], [0.26, 0.92]), ...arc(0.24, 0.86, 0.12, 0.1, 60, 330), ...curve([0.34, 0.82], [0.5, 0.9], [0.64, 1.02], [0.9, 0.92])]],
  ],
  [
    [[...arc(0.44, 0.25, 0.31, 0.25, 205, 440), ...arc(0.44, 0.74, 0.36, 0.26, -80, 150)]],
    [[...curve([0.18, 0.1], [0.5, -0.08], [0.86, 0.04], [0.76, 0.26]), ...curve([0.76, 0.26], [0.7, 0.42], [0.5, 0.46], [0.36, 0.48]), ...curve([0.36, 0.48], [0.7, 0.44], [0.92, 0.66], [0.78, 0.86]), ...curve([0.78, 0.86], [0.62, 1.04], [0.3, 1.04], [0.12, 0.92])]],
    [line([0.16, 0.02], [0.78, 0.02], [0.42, 0.4]).concat(arc(0.44, 0.7, 0.36, 0.3, -80, 145))],
  ],
  [
    [line([0.2, 0.04], [0.14, 0.55], [0.84, 0.5]), line([0.74, 0], [0.66, 1])],
    [line([0.56, 0], [0.1, 0.64], [0.9, 0.64]), line([0.66, 0.3], [0.66, 1])],
    [line([0.6, 1], [0.66, 0], [0.12, 0.62], [0.9, 0.62])],
    [[...curve([0.22, 0.02], [0.1, 0.34], [0.06, 0.58], [0.3, 0.54]), ...curve([0.3, 0.54], [0.5, 0.52], [0.66, 0.46], [0.74, 0.3])], line([0.78, 0], [0.66, 1])],
  ],
  [
    [[...line([0.32, 0.05], [0.24, 0.45]), ...arc(0.42, 0.7, 0.35, 0.29, -122, 145)], line([0.32, 0.05], [0.82, 0])],
    [[...line([0.8, 0.02], [0.28, 0.04], [0.22, 0.44]), ...curve([0.22, 0.44], [0.6, 0.32], [0.88, 0.56], [0.76, 0.8]), ...curve([0.76, 0.8], [0.64, 1.04], [0.3, 1.02], [0.12, 0.9])]],
    [[...line([0.84, 0], [0.4, 0.02], [0.3, 0.4]), ...arc(0.44, 0.68, 0.34, 0.3, -115, 155)]],
  ],
  [
    [[...curve([0.66, 0], [0.38, 0.15], [0.16, 0.45], [0.18, 0.74]), ...arc(0.46, 0.74, 0.28, 0.25, 180, -150)]],
    [[...curve([0.74, 0.04], [0.4, 0.02], [0.12, 0.4], [0.18, 0.76]), ...arc(0.48, 0.72, 0.3, 0.27, 172, -170)]],
    [[...curve([0.5, 0], [0.3, 0.26], [0.2, 0.5], [0.22, 0.74]), ...curve([0.22, 0.74], [0.26, 1.08], [0.8, 1.06], [0.76, 0.76]), ...curve([0.76, 0.76], [0.72, 0.48], [0.28, 0.54], [0.24, 0.8])]],
  ],
  [
    [[...curve([0.12, 0.08], [0.4, 0.08], [0.6, 0.06], [0.84, 0.03]), ...curve([0.84, 0.03], [0.72, 0.3], [0.5, 0.65], [0.42, 1])]],
    [line([0.14, 0.04], [0.84, 0.04], [0.38, 1])],
    [line([0.14, 0.04], [0.84, 0.04], [0.38, 1]), line([0.32, 0.5], [0.82, 0.48])],
  ],
  [
    [[...curve([0.76, 0.14], [0.6, -0.06], [0.22, -0.02], [0.24, 0.24]), ...curve([0.24, 0.24], [0.26, 0.5], [0.78, 0.5], [0.72, 0.8]), ...curve([0.72, 0.8], [0.66, 1.06], [0.18, 1.04], [0.22, 0.76]), ...curve([0.22, 0.76], [0.28, 0.5], [0.8, 0.46], [0.76, 0.14])]],
    [arc(0.5, 0.25, 0.25, 0.25, 85, 445), arc(0.5, 0.75, 0.3, 0.25, -90, 270)],
    [[...arc(0.5, 0.25, 0.24, 0.25, 100, 440), ...arc(0.5, 0.75, 0.3, 0.25, -80, 280)]],
  ],
  [
    [arc(0.44, 0.27, 0.29, 0.26, -20, -380), curve([0.74, 0.2], [0.74, 0.5], [0.64, 0.75], [0.58, 1])],
    [[...arc(0.46, 0.28, 0.28, 0.27, -30, -370), ...line([0.74, 0.2], [0.72, 1])]],
    [[...curve([0.74, 0.14], [0.5, -0.1], [0.16, 0.06], [0.2, 0.34]), ...curve([0.2, 0.34], [0.26, 0.62], [0.7, 0.52], [0.74, 0.16]), ...curve([0.74, 0.16], [0.8, 0.6], [0.72, 0.96], [0.28, 0.98])]],
  ],
];

/**
 * One digit in one of the ways it is written.
 * @param {number} digit
 * @param {number} seed  The same seed draws the same strokes; 0 draws the first way, steadily.
 * @returns {Stroke[]} In a box of about 1 × 1.
 */
export function drawDigit(digit, seed) {
  const ways = WAYS[digit];
  if (seed === 0) return ways[0];
  const rng = random(seed * 10 + digit);
  const way = ways[Math.floor(rng() * ways.length)];
  return varied(way, rng, 1.1);
}

/**
 * Digits in equal numbers, in order 0 to 9, 0 to 9, …
 * @param {number} count
 * @param {number} seed
 * @returns {{strokes: Stroke[], label: number, pen: number}[]}
 */
export function drawDigits(count, seed) {
  const rng = random(seed);
  return Array.from({ length: count }, (_, i) => ({
    strokes: drawDigit(i % 10, 1 + Math.floor(rng() * 2 ** 26)),
    label: i % 10,
    pen: 0.8 + 0.5 * rng(),
  }));
}
