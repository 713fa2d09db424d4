/**
 * The network, in a thread of its own: the page stays smooth while it computes, on the GPU or on the processor.
 *
 * Answers calls of engine.js: `{ id, method, args }` gets `{ id, value }` or `{ id, error }`.
 */

import { Spikeshade } from './spikeshade/index.js';

/** @type {Spikeshade | null} */
let net = null;
/** @type {import('./spikeshade/index.js').Trainer | null} */
let trainer = null;
/** A move to the GPU that is under way. */
let moving = Promise.resolve();

const describe = () => ({ config: net.config, adapter: net.adapterInfo() });

function take(next) {
  net?.free();
  net = next;
  trainer = null;
  next.lost.then(({ reason }) => {
    if (net === next) postMessage({ event: 'lost', reason });
  });
  return describe();
}

const methods = {
  /** Loads a model onto the processor, which is ready at once, in place of the one there is. */
  async load(source) {
    const onProgress = (loaded, total, stage) => postMessage({ event: 'progress', loaded, total, stage });
    const address = new URL('./spikeshade/mnist-2-64.safetensors', import.meta.url);
    return take(await Spikeshade.load(source ?? address, { device: 'cpu', onProgress }));
  },

  /**
   * Moves the model to the GPU. It goes on answering from where it is while the GPU gets ready. Null where another model has
   * taken its place meanwhile.
   * @param {'auto' | 'gpu'} device
   */
  async move(device) {
    const before = net;
    const gpu = net.save().then((bytes) => Spikeshade.load(bytes, { device }));
    moving = gpu.catch(() => {});
    const next = await gpu;
    const superseded = net !== before;
    if (!superseded && next.adapterInfo().kind === 'webgpu') return take(next);
    next.free();
    return superseded ? null : describe();
  },

  /**
   * What the page shows of a run: what the network was given, and of its layers those that spike.
   * @param {ImageData | Float32Array} picture
   */
  async trace(picture) {
    const input = await net.input(picture);
    const { logits, layers, attention, operations } = await net.trace(input);
    const spiking = layers.filter(({ kind }) => kind !== 'real').map(({ name, kind, shape, ratePerTimestep, data }) => {
      return { name: name.replace(/^s\./, ''), kind, shape, ratePerTimestep, data };
    });
    return { input, logits, layers: spiking, attention, operations };
  },

  /** Milliseconds that one inference takes. @param {Float32Array} input */
  time: async (input) => (await net.classify(input)).milliseconds,

  /** The likeliest class of each picture of a batch. @param {Float32Array} images */
  async predict(images) {
    const { batch } = await net.classify(images);
    return batch.map(([first]) => first.index);
  },

  async startTraining(options) {
    await moving;
    trainer = await net.trainer(options);
    return describe();
  },

  step: (images, labels) => trainer.step(images, labels),

  async finishTraining() {
    await trainer.finish();
    trainer = null;
  },

  save: () => net.save(),
};

self.onmessage = async ({ data: { id, method, args } }) => {
  try {
    postMessage({ id, value: await methods[method](...args) });
  } catch (error) {
    postMessage({ id, error: { code: error?.code ?? 'internal', message: String(error?.message ?? error) } });
  }
};
