// What the tests run in the page.

import { Spikeshade, SpikeshadeError } from '/spikeshade/index.js';

export { Spikeshade, SpikeshadeError };

const arrays = { F32: Float32Array, F64: Float64Array, I64: BigInt64Array, U8: Uint8Array, I8: Int8Array };

/** A `.safetensors` file: its metadata, and tensors by name. */
export async function tensors(address) {
  const bytes = await (await fetch(address)).arrayBuffer();
  const length = Number(new DataView(bytes).getBigUint64(0, true));
  const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length)));
  const read = ([name, { dtype, shape, data_offsets: [from, to] }]) => [
    name,
    { shape, data: new arrays[dtype](bytes.slice(8 + length + from, 8 + length + to)) },
  ];
  return { bytes, metadata, of: new Map(Object.entries(entries).map(read)) };
}

/** The first place where two arrays differ (`-0 = 0`), or by more than `within`; -1 where none does. */
function difference(a, b, within = 0) {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  return a.findIndex((x, i) => !(within ? Math.abs(x - b[i]) <= within : x === b[i]));
}

const isPowerOfTwo = (n) => (n & (n - 1)) === 0;

/** Runs a fixture and lists what differs from it; says how many of its traced tensors were compared, and gives the logits. */
export async function fixture(name, device) {
  const file = await tensors(`/test-fixtures/${name}`);
  const model = await Spikeshade.load(file.bytes, { device, prepare: false });
  const x = file.of.get('in.x');
  const options = x.shape.length === 5 ? { sequence: x.shape[0] } : {};
  const { img_size, pooling_stat, T } = model.config;
  const side = [...pooling_stat].reduce((side, pool) => (pool === '1' ? Math.ceil(side / 2) : side), img_size);
  const within = isPowerOfTwo(options.sequence ?? T) && isPowerOfTwo(side * side) ? 0 : 1e-6;
  const problems = [];
  const check = (what, found, expected, within) => {
    const at = difference(found, expected, within);
    if (at >= 0) problems.push(`${what}[${at}] is ${found[at]} and not ${expected[at]}`);
  };
  const logits = file.of.get('out.logits').data;
  const classified = await model.classify(x.data, options);
  check('logits of classify', classified.logits, logits, within);
  const traced = await model.trace(x.data, options);
  check('logits of trace', traced.logits, logits, within);
  check('logits of classify and trace', classified.logits, traced.logits);
  const layers = new Map(traced.layers.map((layer) => [layer.name, layer]));
  const expected = [...file.of].filter(([name]) => /^[shuko]\./.test(name));
  let compared = 0;
  for (const [name, tensor] of expected) {
    const layer = layers.get(name);
    if (!layer) problems.push(`${name} is not in the trace`);
    else if (String(layer.shape) !== String(tensor.shape)) problems.push(`${name} is ${layer.shape}, not ${tensor.shape}`);
    else {
      check(name, layer.data, tensor.data);
      compared += layer.data.length > 0 ? 1 : 0;
    }
  }
  if (expected.length && expected.length !== layers.size) problems.push(`${layers.size} layers, not ${expected.length}`);
  const adapter = model.adapterInfo();
  model.free();
  return { problems, compared, adapter, logits: [...classified.logits] };
}

/** The largest error of a gradient of a training fixture, relative to the tensor's largest entry. */
export async function gradients(name, device) {
  const file = await tensors(`/test-fixtures/${name}`);
  const model = await Spikeshade.load(file.bytes, { device, prepare: false });
  const statistics = file.metadata.mode === 'traingrad' ? 'batch' : 'running';
  const labels = Array.from(file.of.get('in.label').data, Number);
  const found = await model.gradients(file.of.get('in.x').data, labels, { statistics });
  model.free();
  const zero = new Set(JSON.parse(file.metadata.zero_grads ?? '[]'));
  let worst = 0;
  let compared = 0;
  for (const [name, { data }] of file.of) {
    if (!name.startsWith('g.') || zero.has(name.slice(2))) continue;
    const gradient = found.gradients.get(name.slice(2)).data;
    const largest = data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    worst = data.reduce((most, x, i) => Math.max(most, Math.abs(x - gradient[i]) / largest), worst);
    compared += 1;
  }
  return { worst, compared, loss: found.loss, expected: file.of.get('out.loss').data[0] };
}

/** What a call is rejected with. */
export async function refused(call) {
  try {
    await call();
  } catch (e) {
    return { typed: e instanceof SpikeshadeError, name: e.name, code: e.code, message: e.message, why: e.why };
  }
  return 'nothing';
}

/** A picture file's pixels. */
export async function picture(address) {
  const bitmap = await createImageBitmap(await (await fetch(address)).blob());
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** Bytes, to be handed out of the page. */
export function base64(bytes) {
  let text = '';
  for (let i = 0; i < bytes.length; i += 1 << 15) text += String.fromCharCode(...bytes.subarray(i, i + (1 << 15)));
  return btoa(text);
}

export const builtIn = '/spikeshade/mnist-2-64.safetensors';
