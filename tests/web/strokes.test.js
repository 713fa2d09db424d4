// What the demo page makes of strokes, without a browser.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

// A browser takes the page's files for modules because the page says so, Node because of a package.json beside them.
const root = process.env.SPIKESHADE_ROOT ?? path.join(path.dirname(fileURLToPath(import.meta.url)), '../..');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'spikeshade-strokes-'));
after(() => fs.rmSync(folder, { recursive: true }));
fs.writeFileSync(path.join(folder, 'package.json'), '{ "type": "module" }');
for (const name of ['strokes.js', 'digits.js', 'course.js']) fs.copyFileSync(path.join(root, 'examples/web', name), path.join(folder, name));

const from = (name) => import(pathToFileURL(path.join(folder, name)));
const { bounds, mapPoints, picture, random, varied } = await from('strokes.js');
const { drawDigit, drawDigits } = await from('digits.js');
const { Course, HELD_OUT, RUN, knowsDigits } = await from('course.js');

const SIZE = 28;

/** The box of all pixels that have ink, and the mean index of its mass. */
function measured(pixels, size = SIZE) {
  const points = [...pixels].flatMap((p, i) => (p > 0.05 ? [[i % size, Math.floor(i / size)]] : []));
  const { left, top, width, height } = bounds([points]);
  const mass = pixels.reduce((a, b) => a + b);
  const mean = (of) => pixels.reduce((sum, p, i) => sum + p * of(i), 0) / mass;
  return { left, top, width: width + 1, height: height + 1, x: mean((i) => i % size), y: mean((i) => Math.floor(i / size)) };
}

test('a drawing fills 20 of 28 pixels and has its mass in the middle, as in MNIST', () => {
  for (const { strokes } of drawDigits(50, 3)) {
    const pixels = picture(strokes);
    assert.equal(pixels.length, SIZE * SIZE);
    assert.ok(pixels.every((p) => p >= 0 && p <= 1));
    const { width, height, x, y } = measured(pixels);
    const longer = Math.max(width, height);
    assert.ok(longer >= 19 && longer <= 22, `${longer} pixels long`);
    assert.ok(Math.hypot(x - 14, y - 14) < 1.2, `centre of mass at ${x}, ${y}`);
  }
});

test('where and how large it is drawn does not matter', () => {
  const strokes = drawDigit(5, 4);
  const reference = picture(strokes);
  for (const [scale, dx, dy] of [[0.3, 0.1, 0.6], [0.5, 0.4, 0], [0.9, 0, 0.05]]) {
    const moved = picture(mapPoints(strokes, ([x, y]) => [x * scale + dx, y * scale + dy]));
    const worst = Math.max(...moved.map((p, i) => Math.abs(p - reference[i])));
    assert.ok(worst < 1e-3, `differs by ${worst}`);
  }
});

test('a pen is as wide in a small drawing as in a large one, and wide enough to be white in its middle', () => {
  for (const length of [0.2, 0.9]) {
    const pixels = picture([[[0.5, 0.05], [0.5, 0.05 + length]]]);
    const row = pixels.slice(14 * SIZE, 15 * SIZE);
    const width = row.reduce((a, b) => a + b);
    assert.ok(width > 2 && width < 3.2, `${width} pixels wide`);
    assert.equal(Math.max(...row), 1);
  }
});

test('a dot stays a dot, and nothing stays black', () => {
  const dot = measured(picture([[[0.3, 0.7]]]));
  assert.ok(dot.width <= 4 && dot.height <= 4);
  assert.ok(picture([]).every((p) => p === 0));
  assert.ok(picture([[]]).every((p) => p === 0));
});

test('other sizes are the same picture, larger', () => {
  const { width, height, x } = measured(picture(drawDigit(8, 0), { size: 56 }), 56);
  assert.ok(Math.max(width, height) >= 39 && Math.max(width, height) <= 43);
  assert.ok(Math.abs(x - 28) < 1.5);
});

test('variations differ, are near the original, and can be made again', () => {
  const strokes = drawDigit(2, 0);
  const [a, b, again] = [varied(strokes, random(1)), varied(strokes, random(2)), varied(strokes, random(1))];
  assert.deepEqual(a, again);
  assert.notDeepEqual(a, b);
  const difference = (p, q) => p.reduce((sum, v, i) => sum + Math.abs(v - q[i]), 0) / p.reduce((s, v) => s + v, 0);
  const [original, first, other] = [picture(strokes), picture(a), picture(drawDigit(7, 0))];
  assert.ok(difference(original, first) > 0.05);
  assert.ok(difference(original, first) < difference(original, other));
});

test('a course trains on what it is asked to, and measures on what it does not train on', () => {
  const classes = [...'0123456789', 'tick', 'tent'];
  const lessons = [
    { name: 'tick', examples: [[[[0, 0.5], [0.3, 1], [1, 0]]]] },
    { name: 'tent', examples: [[[[0, 1], [0.5, 0], [1, 1]]]] },
  ];
  const course = new Course(lessons, classes, (strokes, pen) => picture(strokes, { pen }));
  const seen = new Set();
  const counts = new Array(classes.length).fill(0);
  for (let i = 0; i < 10; i++) {
    const { images, labels } = course.next();
    assert.equal(labels.length, RUN.batch);
    assert.equal(images.length, RUN.batch * SIZE * SIZE);
    labels.forEach((label, k) => {
      counts[label]++;
      seen.add(String(images.subarray(k * SIZE * SIZE, (k + 1) * SIZE * SIZE)));
    });
  }
  assert.equal(counts[11], 10 * RUN.fresh);
  assert.ok(counts.every((count) => count >= 5), `classes appear ${counts} times`);
  assert.equal(counts[10], 10 * RUN.earlier);
  for (const { images, labels } of [course.heldOutDigits, course.heldOutSymbol, course.heldOutEarlier]) {
    for (let k = 0; k < labels.length; k++) assert.ok(!seen.has(String(images.subarray(k * SIZE * SIZE, (k + 1) * SIZE * SIZE))));
  }
  assert.equal(course.heldOutDigits.labels.length, HELD_OUT.digits);
  assert.ok(course.heldOutSymbol.labels.every((label) => label === 11));
  assert.ok(course.heldOutEarlier.labels.every((label) => label === 10));
});

test('only models of grey digits are taught', () => {
  const digits = [...'0123456789'];
  assert.ok(knowsDigits({ in_chans: 1, class_names: digits }));
  assert.ok(knowsDigits({ in_chans: 1, class_names: [...digits, 'heart'] }));
  assert.ok(!knowsDigits({ in_chans: 3, class_names: digits }));
  assert.ok(!knowsDigits({ in_chans: 1, class_names: ['cat', 'dog'] }));
  assert.ok(!knowsDigits({ in_chans: 1 }));
});
