/**
 * Strokes as the pen left them, and the picture that the network gets of them.
 *
 * Everything here is a pure function of its arguments: no canvas, no document.
 *
 * @typedef {[x: number, y: number]} Point
 * @typedef {Point[]} Stroke  One movement of the pen. A single point is a dot.
 */

/** The pen's width and the softness of its edge, in pixels of a 28 × 28 picture; MNIST's strokes look like that. */
const PEN = { width: 2.5, edge: 1.1 };

/** A drawing smaller than this part of the pad is not blown up to a full-sized digit. */
const SMALLEST = 0.08;

/**
 * A random number generator with a seed (mulberry32), so that what is drawn can be drawn again.
 * @param {number} seed
 * @returns {() => number} Numbers in [0, 1).
 */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * The smallest box around all points.
 * @param {Stroke[]} strokes
 */
export function bounds(strokes) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of strokes.flat()) {
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return { left, top, width: right - left, height: bottom - top };
}

/**
 * Every point through a function.
 * @param {Stroke[]} strokes
 * @param {(point: Point) => Point} f
 * @returns {Stroke[]}
 */
export const mapPoints = (strokes, f) => strokes.map((stroke) => stroke.map(f));

/**
 * The picture of a drawing, as MNIST's were made: white on black, the drawing's longer side 20/28 of the picture's, its
 * centre of mass in the middle. The pen is as wide whatever the size of the drawing, so that a small one does not fade.
 *
 * @param {Stroke[]} strokes  In any unit; `pad` says how large the pad is in it.
 * @param {object} [options]
 * @param {number} [options.size]  Pixels to a side of the picture.
 * @param {number} [options.pad]   The pad's side.
 * @param {number} [options.pen]   The pen's width, relative to MNIST's.
 * @returns {Float32Array} `size` × `size` values in [0, 1], row by row.
 */
export function picture(strokes, { size = 28, pad = 1, pen = 1 } = {}) {
  const drawn = strokes.filter((stroke) => stroke.length > 0);
  if (drawn.length === 0) return new Float32Array(size * size);

  const unit = size / 28;
  const width = PEN.width * pen * unit;
  const box = bounds(drawn);
  const scale = (20 * unit - width) / Math.max(box.width, box.height, SMALLEST * pad);
  const centre = [box.left + box.width / 2, box.top + box.height / 2];
  const at = (dx, dy) =>
    mapPoints(drawn, ([x, y]) => [(x - centre[0]) * scale + size / 2 + dx, (y - centre[1]) * scale + size / 2 + dy]);

  const first = ink(at(0, 0), size, width, PEN.edge * unit);
  // MNIST's mean index of mass is 14 of 0 to 27: the corner between the four middle pixels, half a pixel on.
  const [mx, my] = centreOfMass(first, size);
  const clamp = (shift) => Math.max(-4 * unit, Math.min(4 * unit, shift));
  return ink(at(clamp(size / 2 - mx), clamp(size / 2 - my)), size, width, PEN.edge * unit);
}

/**
 * How much ink of a round pen each pixel gets.
 * @param {Stroke[]} strokes  In pixels.
 * @param {number} size
 * @param {number} width
 * @param {number} edge  Over how many pixels ink fades to nothing.
 */
function ink(strokes, size, width, edge) {
  const pixels = new Float32Array(size * size);
  const reach = width / 2 + edge / 2;
  const covered = (distance) => Math.max(0, Math.min(1, (reach - distance) / edge));
  for (const stroke of strokes) {
    for (let i = 0; i < Math.max(1, stroke.length - 1); i++) {
      const [a, b] = [stroke[i], stroke[i + 1] ?? stroke[i]];
      const first = (k) => Math.max(0, Math.floor(Math.min(a[k], b[k]) - reach - 0.5));
      const last = (k) => Math.min(size - 1, Math.ceil(Math.max(a[k], b[k]) + reach - 0.5));
      for (let y = first(1); y <= last(1); y++) {
        for (let x = first(0); x <= last(0); x++) {
          const value = covered(distanceTo(a, b, x + 0.5, y + 0.5));
          if (value > pixels[y * size + x]) pixels[y * size + x] = value;
        }
      }
    }
  }
  return pixels;
}

/** The distance of (x, y) from the segment a–b. */
function distanceTo(a, b, x, y) {
  const [dx, dy, vx, vy] = [b[0] - a[0], b[1] - a[1], x - a[0], y - a[1]];
  const length = dx * dx + dy * dy;
  const t = length > 0 ? Math.max(0, Math.min(1, (vx * dx + vy * dy) / length)) : 0;
  return Math.hypot(vx - t * dx, vy - t * dy);
}

/** The mean index of a picture's mass, [x, y]. */
function centreOfMass(pixels, size) {
  let [mass, mx, my] = [0, 0, 0];
  pixels.forEach((p, i) => {
    mass += p;
    mx += p * (i % size);
    my += p * Math.floor(i / size);
  });
  return mass > 0 ? [mx / mass, my / mass] : [size / 2, size / 2];
}

/**
 * A network's input for a picture: (pixel - mean) / std.
 * @param {Float32Array} pixels
 * @param {number} mean
 * @param {number} std
 */
export const normalised = (pixels, mean, std) => pixels.map((p) => (p - mean) / std);

/**
 * The same drawing by a slightly different hand: turned, stretched, slanted, and no line quite where it was.
 * @param {Stroke[]} strokes
 * @param {() => number} rng
 * @param {number} [amount]  1 is what another example by the same person might look like.
 * @returns {Stroke[]}
 */
export function varied(strokes, rng, amount = 1) {
  const spread = (by) => (rng() * 2 - 1) * by * amount;
  const box = bounds(strokes);
  const [cx, cy] = [box.left + box.width / 2, box.top + box.height / 2];
  const side = Math.max(box.width, box.height, 1e-6);
  const [turn, slant] = [spread(0.21), spread(0.18)];
  const [sx, sy] = [1 + spread(0.16), 1 + spread(0.12)];
  const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
  // Two slow waves across the drawing move neighbouring points alike, so that lines stay lines.
  const wave = () => [spread(0.022), 3 + rng() * 4, rng() * 6.3];
  const waves = [wave(), wave(), wave(), wave()];
  const along = ([size, speed, phase], t) => size * Math.sin(speed * t + phase);
  return mapPoints(strokes, ([px, py]) => {
    let [x, y] = [(px - cx) / side, (py - cy) / side];
    [x, y] = [x + along(waves[0], y) + along(waves[1], x + y), y + along(waves[2], x) + along(waves[3], x - y)];
    x = (x + slant * y) * sx;
    y *= sy;
    return [cx + (x * cos - y * sin) * side, cy + (x * sin + y * cos) * side];
  });
}
