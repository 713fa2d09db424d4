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
/** Resolves when the training has ended that runs or is about to; null while there is none. */
let training = null;
/** Loads that are under way: one after the other, so that the last one asked for is the one that stays. */
let loading = Promise.resolve();
/** A move to the GPU that is under way. */
let moving = Promise.resolve();

const describe = () => ({ config: net.config, adapter: net.adapterInfo() });

const refused = (code, message) => Object.assign(new Error(message), { code });

/** The model that there is. */
function model() {
  if (!net) throw refused('bad-input', 'no model is loaded; load one first');
  return net;
}

function take(next) {
  net?.free();
  net = next;
  next.lost.then(({ reason }) => {
    if (net === next) postMessage({ event: 'lost', reason });
  });
  return describe();
}

/** Says that there is a training from now on, until `end` is called. */
function begin() {
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  training = {
    ended,
    end() {
      trainer = training = null;
      end();
    },
  };
}

/** What a training does; where it fails, the training has ended. */
async function ofTraining(work) {
  if (!trainer) throw refused('bad-input', 'no training has begun, or it has ended; start one first');
  try {
    return await work(trainer);
  } catch (error) {
    training?.end();
    throw error;
  }
}

const methods = {
  /** Loads a model onto the processor, which is ready at once, in place of the one there is; not while a training runs. */
  async load(source) {
    if (training) throw refused('busy', 'a training runs; let it end before another model is loaded');
    const onProgress = (loaded, total, stage) => postMessage({ event: 'progress', loaded, total, stage });
    const address = new URL('./spikeshade/mnist-2-64.safetensors', import.meta.url);
    const before = loading;
    const loaded = before.then(() => Spikeshade.load(source ?? address, { device: 'cpu', onProgress })).then(take);
    loading = loaded.catch(() => {});
    return loaded;
  },

  /**
   * Moves the model to the GPU. It goes on answering from where it is while the GPU gets ready. Waits for a training that runs, and
   * a training waits for it, so that what is learned is not replaced. Where there is no GPU the answer's adapter says why. Null
   * where another model has taken its place meanwhile.
   * @param {'auto' | 'gpu'} device
   */
  async move(device) {
    while (training) await training.ended;
    const moved = (async () => {
      const before = model();
      const bytes = await before.save();
      const next = await Spikeshade.load(bytes, { device });
      if (net === before && next.adapterInfo().kind === 'webgpu') return take(next);
      const adapter = next.adapterInfo();
      next.free();
      return net === before ? { ...describe(), adapter } : null;
    })();
    moving = moved.catch(() => {});
    return moved;
  },

  /**
   * What the page shows of a run: what the network was given, and of its layers those that spike.
   * @param {ImageData | Float32Array} picture
   */
  async trace(picture) {
    const net = model();
    // Both are asked for at once: another model may take this one's place before an answer, and lets it go after its calls.
    const [input, { logits, layers, attention, operations }] = await Promise.all([net.input(picture), net.trace(picture)]);
    const spiking = layers.filter(({ kind }) => kind !== 'real').map(({ name, kind, shape, ratePerTimestep, data }) => {
      return { name: name.replace(/^s\./, ''), kind, shape, ratePerTimestep, data };
    });
    return { input, logits, layers: spiking, attention, operations };
  },

  /**
   * Why a neuron fired, or did not.
   * @param {Float32Array} input  What `trace` says that the network was given.
   * @param {import('./spikeshade/index.js').Question} question
   */
  why: (input, question) => model().why(input, question),

  /** Milliseconds that one inference takes. @param {Float32Array} input */
  time: async (input) => (await model().classify(input)).milliseconds,

  /** The likeliest class of each picture of a batch. @param {Float32Array} images */
  async predict(images) {
    const { batch } = await model().classify(images);
    return batch.map(([first]) => first.index);
  },

  /** Begins a training of the model that is loaded or being loaded, on the GPU where a move to it is under way. */
  async startTraining(options) {
    if (training) throw refused('busy', 'a training runs already; let it end first');
    begin();
    try {
      await loading;
      await moving;
      trainer = await model().trainer(options);
    } catch (error) {
      training.end();
      throw error;
    }
    return describe();
  },

  /** One step. Where it fails the training has ended. */
  step: (images, labels) => ofTraining((trainer) => trainer.step(images, labels)),

  finishTraining: () =>
    ofTraining(async (trainer) => {
      await trainer.finish();
      training.end();
    }),

  save: () => model().save(),
};

self.onmessage = async ({ data: { id, method, args } }) => {
  try {
    postMessage({ id, value: await methods[method](...args) });
  } catch (error) {
    const { code = 'internal', message = String(error), why } = error ?? {};
    postMessage({ id, error: { code, message, why } });
  }
};
postMessage({ event: 'started' });
