// The JavaScript side of Spikeshade: loading, queueing, errors. Everything that computes is in the WebAssembly module.

import init, { Engine, onPanic } from './spikeshade_wasm.js';

/** What every failure is thrown as. `code` says what kind it is, `message` what to do; `why` there is no GPU where that is it. */
export class SpikeshadeError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = 'SpikeshadeError';
    this.code = code;
    this.why = options?.cause?.why;
  }
}

/** The module, once for all models. */
let module;
/** Why the module can run no more, if it cannot. */
let ended;
/** What rejects the calls that have not been answered. */
const waiting = new Set();

function end(message) {
  ended ??= new SpikeshadeError('internal', `${message}; reload the page, and please report this`);
  for (const reject of waiting) reject(ended);
  waiting.clear();
}

const trapped = (error) => end(`the WebAssembly module ended (${error.message})`);

/** A trap (out of memory, for one) shows nowhere else: it ends a task of the module's, whose promise stays open. */
function watch({ error, reason = error }) {
  if (reason instanceof WebAssembly.RuntimeError && String(reason.stack).includes('spikeshade')) trapped(reason);
}

/** A module that uses what ours does: vectors, bulk memory, saturating conversions, references, several results. */
const PROBE = 'AGFzbQEAAAABBgFgAAJ7fwMCAQAEBAFvAAEFAwEAAQoZARcAQQBBAEEB/AsAQwAAgD/8AMD9D0EACw==';

/** Whether this browser's WebAssembly is new enough. */
function supported() {
  const bytes = Uint8Array.from(atob(PROBE), (c) => c.charCodeAt(0));
  return typeof WebAssembly === 'object' && WebAssembly.validate(bytes);
}

/** What to say where the module cannot be had: the browser is too old, or what arrived is not the module. */
function unavailable(cause) {
  if (!supported()) {
    const lacks = typeof WebAssembly === 'object' ? "this browser's WebAssembly is too old" : 'this browser has no WebAssembly, or has it turned off';
    return new SpikeshadeError('unsupported', `${lacks}; Chrome and Edge 96, Firefox 89, Safari 16.4 and later ones have what it takes`, { cause });
  }
  return new SpikeshadeError('network', `the WebAssembly module cannot be loaded (${cause.message}); check its address`, { cause });
}

function initialise(wasm = new URL('./spikeshade_wasm_bg.wasm', import.meta.url)) {
  module ??= init({ module_or_path: wasm }).then(
    () => {
      onPanic(end);
      globalThis.addEventListener?.('error', watch);
      globalThis.addEventListener?.('unhandledrejection', watch);
    },
    (e) => {
      module = undefined;
      throw unavailable(e);
    },
  );
  return module;
}

function wrapped(e) {
  if (!ended && e instanceof WebAssembly.RuntimeError) trapped(e);
  if (ended) return ended;
  if (e instanceof SpikeshadeError || typeof e?.code !== 'string') return e;
  return new SpikeshadeError(e.code, e.message, { cause: e });
}

/** The promise that `work` gives, with errors of this package, also where the module ends. */
function answered(work) {
  return new Promise((resolve, reject) => {
    if (ended) throw ended;
    waiting.add(reject);
    (async () => work())()
      .then(resolve, (e) => reject(wrapped(e)))
      .finally(() => waiting.delete(reject));
  });
}

async function download(source, { onProgress, signal }) {
  const failed = (why) => new SpikeshadeError('network', `${source}: ${why}; check the address and the connection`);
  const refused = (e) => (signal?.aborted ? signal.reason : failed(e.message));
  const response = await fetch(source, { signal }).catch((e) => {
    throw refused(e);
  });
  if (!response.ok) throw failed(`HTTP status ${response.status}`);
  // Of a compressed answer the length is another than that of what arrives.
  const total = response.headers.has('content-encoding') ? null : Number(response.headers.get('content-length')) || null;
  const parts = [];
  let loaded = 0;
  onProgress(0, total, 'model');
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      loaded += value.length;
      onProgress(loaded, total, 'model');
    }
  } catch (e) {
    throw refused(e);
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const isPicture = (x) => x?.data instanceof Uint8ClampedArray || x?.data instanceof Uint8Array;

/** A model on a device. */
export class Spikeshade {
  #engine;
  #config;
  #info;
  #lost;
  #trainer;
  #queue = Promise.resolve();

  static version = '0.1.0';

  static async load(source, options = {}) {
    const { device = 'auto', prepare = true, signal, wasm, onProgress = () => {} } = options;
    signal?.throwIfAborted();
    onProgress(0, 1, 'module');
    const ready = initialise(wasm).then(() => onProgress(1, 1, 'module'));
    const given = source instanceof ArrayBuffer || ArrayBuffer.isView(source);
    const name = given ? 'the model' : String(source);
    const bytes = given
      ? new Uint8Array(source.buffer ?? source, source.byteOffset ?? 0, source.byteLength)
      : download(source, { onProgress, signal });
    const [, model] = await Promise.all([ready, bytes]);
    signal?.throwIfAborted();
    onProgress(0, 1, 'prepare');
    const engine = await answered(() => Engine.load(model, name, device));
    let loaded;
    try {
      loaded = new Spikeshade(engine, await describe(engine.device));
      if (prepare) await loaded.#run(() => engine.prepare(1));
      signal?.throwIfAborted();
    } catch (e) {
      if (loaded) loaded.free();
      else engine.free();
      throw e;
    }
    onProgress(1, 1, 'prepare');
    return loaded;
  }

  /** Use `Spikeshade.load`. */
  constructor(engine, info) {
    if (!(engine instanceof Engine)) throw new TypeError('a model is made by Spikeshade.load');
    this.#engine = engine;
    this.#info = info;
    this.#configure(engine);
    this.#lost = new Promise((resolve) => {
      engine.untilLost().then((reason) => reason !== undefined && this.#engine && resolve({ reason }));
    });
  }

  get config() {
    return this.#config;
  }

  get lost() {
    return this.#lost;
  }

  adapterInfo() {
    return { ...this.#info };
  }

  input(images, options = {}) {
    return this.#run((engine) => this.#values(engine, images, options));
  }

  classify(input, options = {}) {
    return this.#run(async (engine) => {
      const { classes, ...result } = await engine.classify(this.#values(engine, input, options), options.sequence, options.timesteps);
      return { classes: classes[0], batch: classes, ...result };
    });
  }

  trace(input, options = {}) {
    return this.#run(async (engine) => {
      const traced = await engine.trace(this.#values(engine, input, options), options.sequence, options.timesteps);
      try {
        const { classes, layers, ...summary } = traced.summary;
        // The values move here, where they are collected: the module's memory is let go by hand alone, and never shrinks.
        const withValues = layers.map((layer) => ({ ...layer, data: traced.values() }));
        traced.free();
        return { classes: classes[0], batch: classes, layers: withValues, ...summary };
      } catch (error) {
        // After a trap nothing of the module can be let go, and the trap is what has to be told.
        if (!(error instanceof WebAssembly.RuntimeError)) traced.free();
        throw error;
      }
    });
  }

  why(input, question, options = {}) {
    return this.#run(async (engine) => {
      const values = this.#values(engine, input, options);
      return JSON.parse(await engine.why(values, options.sequence, options.timesteps, JSON.stringify(question ?? null)));
    });
  }

  gradients(images, labels, options = {}) {
    return this.#run(async (engine) => {
      const frozen = options.statistics !== 'batch';
      const values = this.#values(engine, images, options);
      const { sequence, timesteps } = options;
      const { gradients, ...result } = await engine.gradients(values, sequence, timesteps, Float64Array.from(labels), !frozen);
      return { ...result, gradients: new Map(gradients.map(({ name, ...tensor }) => [name, tensor])) };
    });
  }

  trainer(options = {}) {
    return this.#run((engine) => this.#train(engine, options));
  }

  trainStep(images, labels, options) {
    return this.#run(async (engine) => {
      if (!this.#trainer) await this.#train(engine, {});
      return this.#step(engine, images, labels, options);
    });
  }

  save() {
    return this.#run((engine) => engine.save());
  }

  free() {
    const engine = this.#engine;
    this.#engine = undefined;
    // What has begun runs to its end.
    this.#queue = this.#queue.then(() => ended || engine?.free());
  }

  [Symbol.dispose ?? Symbol.for('Symbol.dispose')]() {
    this.free();
  }

  #configure(engine) {
    this.#config = Object.freeze(JSON.parse(engine.config));
  }

  async #train(engine, options) {
    await engine.startTraining(JSON.stringify(options));
    this.#configure(engine);
    this.#trainer = new Trainer({
      step: (images, labels, options) => this.#run((engine) => this.#step(engine, images, labels, options)),
      finish: () => this.#run((engine) => this.#finish(engine)),
    });
    return this.#trainer;
  }

  #step(engine, images, labels, options = {}) {
    return engine.trainStep(this.#values(engine, images, options), Float64Array.from(labels), options.learningRate);
  }

  async #finish(engine) {
    await engine.finishTraining();
    this.#trainer = undefined;
    return this;
  }

  /** One call at a time, in their order. */
  #run(work) {
    const engine = this.#engine;
    if (!engine) return Promise.reject(new SpikeshadeError('bad-input', 'this model was freed; load it again'));
    const result = this.#queue.then(() => answered(() => work(engine)));
    this.#queue = result.catch(() => {});
    return result;
  }

  /** `[B, C, H, W]` of pictures, or the values as they are. */
  #values(engine, input, { invert } = {}) {
    if (input instanceof Float32Array) return input;
    const pictures = Array.isArray(input) ? input : [input];
    if (pictures.length === 0 || !pictures.every(isPicture)) {
      throw new SpikeshadeError('bad-input', 'the input must be an ImageData, an array of them, or a Float32Array');
    }
    const values = pictures.map(({ width, height, data }) => engine.picture(width, height, new Uint8Array(data), invert));
    const all = new Float32Array(values[0].length * values.length);
    values.forEach((of, i) => all.set(of, i * of.length));
    return all;
  }
}

/** A training that has begun, from `Spikeshade.trainer`. */
export class Trainer {
  #calls;

  constructor(calls) {
    this.#calls = calls;
  }

  step(images, labels, options) {
    return this.#calls.step(images, labels, options);
  }

  finish() {
    return this.#calls.finish();
  }
}

/** What a device is: the module knows its kind, the browser its vendor and, hardly ever, its name. */
async function describe(device) {
  if (device.kind === 'cpu') return { ...device, vendor: '', architecture: '' };
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  const { vendor = '', architecture = '', description = '' } = adapter?.info ?? {};
  return { ...device, name: description || [vendor, architecture].filter(Boolean).join(' ') || 'WebGPU', vendor, architecture };
}
