/// <reference lib="esnext.disposable" />

/** What kind of failure it is; the message says what to do. */
export type ErrorCode =
  /** The browser offers no WebGPU adapter, and `device: 'gpu'` was asked for; the error's `why` tells the reason. */
  | 'no-webgpu'
  /** The browser has no WebAssembly, or one that is too old for the module. */
  | 'unsupported'
  /** The GPU device went away: load the model again. */
  | 'device-lost'
  /** The device or the page has too little memory for the batch. */
  | 'out-of-memory'
  /** The device refuses something; `device: 'cpu'` does without it. */
  | 'gpu'
  /** The file is no checkpoint, or one that is damaged or contradicts itself. */
  | 'bad-model'
  /** An argument has the wrong type, length or value, or the model was freed. */
  | 'bad-input'
  /** A loss or gradient that is not finite. */
  | 'training'
  /** Something could not be downloaded. */
  | 'network'
  /** A defect; the page has to be loaded again. */
  | 'internal';

/** Why a model is not on a GPU. */
export type NoGpu =
  /** The page came over plain http from another host than localhost, where browsers hide WebGPU. */
  | 'insecure'
  /** The browser has no WebGPU. */
  | 'no-webgpu'
  /** It has, but offers no adapter: no GPU, a driver on its blocklist, or acceleration turned off. */
  | 'no-adapter'
  /** The adapter is a software driver, which `auto` does not take. */
  | 'software'
  /** The adapter gave no device. */
  | 'refused';

export class SpikeshadeError extends Error {
  readonly name: 'SpikeshadeError';
  readonly code: ErrorCode;
  /** With `no-webgpu`: why. */
  readonly why?: NoGpu;
}

export interface LoadOptions {
  /** `auto` (the default): a hardware GPU, else the processor. `gpu`: any WebGPU adapter. `cpu`: the reference executor in
   * WebAssembly. */
  device?: 'auto' | 'gpu' | 'cpu';
  /** Stages: `module` and `prepare` (0 or 1 of 1), `model` (bytes; `total` is null where the server does not say). */
  onProgress?: (loaded: number, total: number | null, stage: 'module' | 'model' | 'prepare') => void;
  /** Ends the download; the promise is then rejected with its reason. */
  signal?: AbortSignal;
  /** Where the WebAssembly module is, if not beside `index.js`. Counts once a page. */
  wasm?: string | URL | Request | Response | BufferSource | WebAssembly.Module;
  /** Whether pipelines are compiled now (the default) or with the first picture. */
  prepare?: boolean;
}

/** A model's configuration, as its checkpoint has it. */
export interface Config {
  readonly arch: 'a2os2a';
  readonly img_size: number;
  readonly in_chans: number;
  readonly num_classes: number;
  readonly embed_dim: number;
  readonly depth: number;
  readonly num_heads: number;
  readonly mlp_ratio: number;
  /** Timesteps. */
  readonly T: number;
  /** After which of the four stages a pool follows, e.g. `"0110"`. */
  readonly pooling_stat: string;
  readonly tau: number;
  readonly v_threshold: number;
  readonly attn_v_threshold: number;
  /** null: soft reset. */
  readonly v_reset: number | null;
  readonly decay_input: boolean;
  readonly detach_reset: boolean;
  readonly surrogate: 'sigmoid' | 'atan' | 'rectangular' | 'triangular';
  readonly alpha: number;
  readonly bn_eps: number;
  readonly mean?: readonly number[];
  readonly std?: readonly number[];
  readonly class_names?: readonly string[];
}

/** Pixels as a canvas has them: `[height, width, 4]`, red, green, blue and alpha. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8ClampedArray | Uint8Array;
}

/** Pictures, which are prepared as the command line prepares files (a model of grey digits gets dark drawings on light ground
 * inverted, scaled and centred as MNIST's were); or values `[B, C, H, W]`, normalised. */
export type Images = Picture | readonly Picture[] | Float32Array;

export interface InputOptions {
  /** Invert pictures: always or never, instead of where the model's preparation finds it due. */
  invert?: boolean;
  /** The values are a sequence of so many timesteps, `[T, B, C, H, W]`. */
  sequence?: number;
  /** Other timesteps than the model's, 1 to 32. */
  timesteps?: number;
}

export interface ClassScore {
  index: number;
  name: string;
  logit: number;
  /** Softmax of the logits. */
  probability: number;
}

export interface Classification {
  /** All classes of the first image, the most likely first. */
  classes: ClassScore[];
  /** The same of each image. */
  batch: ClassScore[][];
  /** `[B, classes]`. */
  logits: Float32Array;
  /** The run, without compiling. */
  milliseconds: number;
  /** Spikes per neuron and timestep, all layers together. */
  firingRate: number;
}

export interface Layer {
  /** `s.` spikes of, `h.` membranes (before reset) of, `u.` residual after, `k.` keys of, `o.` attention sums of, and the layer. */
  name: string;
  kind: 'spikes' | 'ternary' | 'real';
  /** `[T, B, C, H, W]`; T is 1 where every timestep is alike. */
  shape: [number, number, number, number, number];
  /** Spikes per neuron, timestep by timestep; null of real values. */
  ratePerTimestep: number[] | null;
  /** The values in that order: an Int8Array of spikes, else a Float32Array. */
  readonly data: Int8Array | Float32Array;
}

/** How much each token is attended to in a block: of token m the mean over timesteps and queries n of `(Q Kᵀ)[n, m]`, which
 * A²OS²A multiplies the values with as it is: no softmax, no scale. At least 0. */
export interface AttentionMap {
  block: number;
  heads: number;
  height: number;
  width: number;
  /** `[B, heads, height, width]`; of one image `[heads, height, width]`. */
  map: Float32Array;
}

export interface Operations {
  /** Additions that spikes selected (synaptic operations), taps outside a convolution's grid left out. */
  additions: number;
  /** Multiplications and additions of real factors: the first convolution and the head. */
  macs: number;
  /** What a network of the same layers with real activations does in one pass, without timesteps. */
  denseMacs: number;
  /** Neurons times timesteps: each updates a membrane. */
  updates: number;
  /** Activations that the dense network writes and reads in that pass. */
  denseUpdates: number;
  /** Of the additions and multiply-adds in 45 nm, 0.9 pJ and 4.6 pJ (Horowitz, ISSCC 2014): ENERGY.md's `45nm-f32`, as papers
   * count. Memory is not in it, and so no updates. */
  energy: { spiking_pJ: number; dense_pJ: number };
  /** The same with memory, `45nm-f32-sram`: each operation reads its weight (10 pJ), a multiply-add its activation too (10 pJ), and
   * an update reads and writes its membrane or activation (20 pJ). */
  energyWithMemory: { spiking_pJ: number; dense_pJ: number };
}

export interface Trace extends Omit<Classification, 'firingRate'> {
  layers: Layer[];
  attention: AttentionMap[];
  operations: Operations;
}

/** A neuron at a timestep, the first of which is 1. The neuron has a number, (line · width + column) · channels + channel, or is at a
 * place, each from 0 on. */
export type Question = {
  /** A layer of neurons: the name of its spikes without `s.`, e.g. `block.0.attn.q_lif`. */
  layer: string;
  timestep: number;
} & ({ neuron: number } | { line: number; column: number; channel: number });

/** Why a neuron fired at a timestep, or did not. */
export interface Why {
  layer: string;
  neuron: number;
  timestep: number;
  /** Line, column and channel of the neuron. */
  place: [number, number, number];
  threshold: number;
  /** Whether it fires -1 too, where the membrane is at `-threshold` or below. */
  ternary: boolean;
  /** τ, the membrane's time constant in timesteps. */
  tau: number;
  /** Whether the input is divided by τ too. */
  decay_input: boolean;
  /** The potential that a neuron which fires goes to; null: it loses the threshold (a soft reset). */
  v_reset: number | null;
  /** The membrane at each timestep: what was left of the one before, with the input (before firing), what it fired, and what is left
   * after the reset. */
  path: { before: number; h: number; spike: -1 | 0 | 1; after: number }[];
  /** The input at the timestep, the sum of all contributions. */
  input: number;
  /** Its parts, the largest first, those that are 0 among them. */
  contributions: Contribution[];
  /** What else there is to say of the input. */
  note?: string;
}

export interface Contribution {
  /** Where it comes from, in words. */
  from: string;
  /** The layer that it comes from; null of the image and of constants. */
  layer: string | null;
  /** Line, column and channel there (of the pool's output, where a pool is between); null of constants. */
  place: [number, number, number] | null;
  amount: number;
}

export interface Gradients {
  /** Mean cross-entropy, in nats. */
  loss: number;
  /** `[B, classes]`. */
  logits: Float32Array;
  /** By the parameter's name in the checkpoint, in its shape there. */
  gradients: Map<string, { shape: number[]; data: Float32Array }>;
}

export interface TrainerOptions {
  /** 0.001 unless given. */
  learningRate?: number;
  /** AdamW unless given. */
  optimizer?:
    | 'adamw'
    | 'sgd'
    | { kind: 'adamw'; beta1?: number; beta2?: number; eps?: number }
    | { kind: 'sgd'; momentum?: number; nesterov?: boolean };
  /** Of weights of convolutions and the head; 0 unless given. */
  weightDecay?: number;
  /** The largest global norm of the gradient, 0 for none; 1 unless given. */
  clipNorm?: number;
  /** `running` (the default) normalises with the model's running statistics, which stay as they are: for batches of a few
   * pictures. `batch` normalises with each batch's own, and running statistics follow. */
  statistics?: 'running' | 'batch';
  /** Names of classes that are added after the model's own, whose logits stay what they are. */
  addClasses?: readonly string[];
  /** Keep less for the backward pass, and compute it again. */
  recompute?: boolean;
}

export interface StepOptions {
  /** Another rate for this step. */
  learningRate?: number;
  invert?: boolean;
}

export interface StepResult {
  /** Mean cross-entropy before the step, in nats. */
  loss: number;
  /** How many images had their label first, before the step. */
  correct: number;
  total: number;
  learningRate: number;
  /** Before clipping. */
  gradientNorm: number;
  /** `[B, classes]`, before the step. */
  logits: Float32Array;
}

/** A training that goes on. The model has the latest weights whenever it is used. */
export interface Trainer {
  /** One step of the optimizer on a batch; `labels` are class indices. A batch of another size than the last one's makes a new
   * plan, in which what was learned goes on. */
  step(images: Images, labels: ArrayLike<number>, options?: StepOptions): Promise<StepResult>;
  /** Lets the training's memory go, and gives the model. */
  finish(): Promise<Spikeshade>;
}

export interface AdapterInfo {
  kind: 'webgpu' | 'cpu';
  name: string;
  vendor: string;
  architecture: string;
  /** Whether it runs on the processor. */
  software: boolean;
  /** Why `auto` did not take a GPU; null where it did or was not asked to. */
  why: NoGpu | null;
  /** The same in a sentence. */
  notice: string | null;
}

/** A model on a device. Its calls may overlap; they run one after another. */
export class Spikeshade {
  private constructor();
  /** The library's version. */
  static readonly version: string;
  /** A checkpoint, `.safetensors` with its configuration in the metadata, from an address or its bytes. */
  static load(source: string | URL | ArrayBuffer | ArrayBufferView, options?: LoadOptions): Promise<Spikeshade>;
  readonly config: Config;
  /** Resolves when the GPU device is lost; every call then fails with `device-lost`. */
  readonly lost: Promise<{ reason: string }>;
  adapterInfo(): AdapterInfo;
  /** What the model is given of pictures: values `[B, C, H, W]`, normalised, which all other calls take too. */
  input(images: Images, options?: { invert?: boolean }): Promise<Float32Array>;
  classify(input: Images, options?: InputOptions): Promise<Classification>;
  trace(input: Images, options?: InputOptions): Promise<Trace>;
  /** Why a neuron fired, or did not, in a run of one image: its membrane's path, and what its input was made of. */
  why(input: Images, question: Question, options?: InputOptions): Promise<Why>;
  /** Loss and gradient of every parameter; batch norm with the model's running statistics, or the batch's own. */
  gradients(
    images: Images,
    labels: ArrayLike<number>,
    options?: InputOptions & { statistics?: 'running' | 'batch' },
  ): Promise<Gradients>;
  /** Begins a training; a former one ends, and the model keeps what it learned. */
  trainer(options?: TrainerOptions): Promise<Trainer>;
  /** A step of the trainer that there is, or of one with default options. */
  trainStep(images: Images, labels: ArrayLike<number>, options?: StepOptions): Promise<StepResult>;
  /** The model as the bytes of a `.safetensors` file, f32, for `load` and for the command line. */
  save(): Promise<Uint8Array<ArrayBuffer>>;
  /** Lets memory and device go. */
  free(): void;
  [Symbol.dispose](): void;
}
