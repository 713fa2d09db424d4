/**
 * The network, in a thread of its own: the page stays smooth while it computes, on the GPU or on the processor.
 *
 * Answers calls of engine.js: `{ id, method, args }` gets `{ id, value }` or `{ id, error }`.
 */

import { Spikeshade } from './spikeshade/index.js';

/** @type {Spikeshade | null} */
let net = null;
let trainer = null;

const describe = () => ({ config: net.config, adapter: net.adapterInfo() });

const methods = {
  /** Loads a model in place of the one there is. */
  async load({ source, device }) {
    const onProgress = (loaded, total, stage) => postMessage({ event: 'progress', loaded, total, stage });
    const next = await Spikeshade.load(source ?? new URL('./spikeshade/mnist-2-64.safetensors', import.meta.url), { device, onProgress });
    release();
    net = next;
    net.lost.then(({ reason }) => {
      if (net === next) postMessage({ event: 'lost', reason });
    });
    return describe();
  },

  /**
   * What the page shows of a run: of the layers those that spike.
   * @param {ImageData | Float32Array} input
   */
  async trace(input) {
    const { logits, milliseconds, layers, attention, operations } = await net.trace(input);
    const spiking = layers.filter(({ kind }) => kind !== 'real').map(({ name, kind, shape, ratePerTimestep, data }) => {
      return { name: name.replace(/^s\./, ''), kind, shape, ratePerTimestep, data };
    });
    return { logits, milliseconds, layers: spiking, attention, operations };
  },

  /** The likeliest class of each picture of a batch. @param {Float32Array} images */
  async predict(images) {
    const { batch } = await net.classify(images);
    return batch.map(([first]) => first.index);
  },

  async startTraining(options) {
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

function release() {
  net?.free();
  trainer = net = null;
}

self.onmessage = async ({ data: { id, method, args } }) => {
  try {
    postMessage({ id, value: await methods[method](...args) });
  } catch (error) {
    postMessage({ id, error: { code: error?.code ?? 'internal', message: String(error?.message ?? error) } });
  }
};
