/**
 * The page: what is drawn goes to the network, what the network does is shown.
 *
 * `?device=cpu` or `?device=gpu` chooses where it runs; `?still` draws no digit by itself at the start.
 */

import { Attention } from './attention.js';
import { knowsDigits } from './course.js';
import { drawDigit } from './digits.js';
import { Engine } from './engine.js';
import { Pad } from './pad.js';
import { Raster, part, words } from './raster.js';
import { normalised, picture } from './strokes.js';
import { Teach } from './teach.js';
import { Why } from './why.js';

/** @param {string} id */
const $ = (id) => document.getElementById(id);
const options = new URLSearchParams(location.search);
const still = matchMedia('(prefers-reduced-motion: reduce)');

/** What the built-in model looks like, so that the page has its final shape before it is loaded. */
const BUILT_IN = {
  classes: '0123456789'.split(''),
  blocks: 2,
  heads: 2,
  layers: [
    ['patch_embed.proj_lif', 8, 28],
    ['patch_embed.proj_lif1', 16, 28],
    ['patch_embed.proj_lif2', 32, 14],
    ['patch_embed.proj_lif3', 64, 7],
    ...[0, 1].flatMap((block) => [
      [`block.${block}.attn.shortcut_lif`, 64, 7],
      [`block.${block}.attn.q_lif`, 64, 7],
      [`block.${block}.attn.v_lif`, 64, 7],
      [`block.${block}.attn.attn_lif`, 64, 7],
      [`block.${block}.mlp.fc1_lif`, 64, 7],
      [`block.${block}.mlp.fc2_lif`, 256, 7],
    ]),
    ['head_lif', 64, 7],
  ].map(([name, channels, side]) => ({ name, kind: 'spikes', shape: [4, 1, channels, side, side] })),
};

/** Where the network can run. */
const DEVICES = ['auto', 'gpu', 'cpu'];

/** Classes are all shown, in their order, up to this many; of more, the likeliest ten. */
const MOST_BARS = 16;

const page = {
  /** @type {Engine | null} */
  engine: null,
  /** @type {any} */
  config: null,
  /** The model's bytes, or null for the built-in one. @type {Uint8Array | null} */
  source: null,
  device: options.get('device') ?? 'auto',
  /** Whether the engine has the model that `config` describes. */
  ready: false,
  /** Whether the network is training. */
  busy: false,
  /** Models that are being loaded or wait for it. */
  loading: 0,
  /** Models loaded so far, which tells one from the next. */
  model: 0,
};

const pad = new Pad($('pad'));
const raster = new Raster($('strips'), {
  play: $('play'),
  step: $('step'),
  now: $('step-now'),
  together: $('together'),
  glimpse: $('glimpse'),
  said: $('glimpse-said'),
  onneuron: (question) => ask(question),
});
const called = (layer) => `${part(layer)}, ${words(layer)}`;
const why = new Why($('why'), { name: called });
const attention = new Attention($('heads'));
const teach = new Teach({
  engine: () => page.engine,
  config: () => (page.ready ? page.config : null),
  loading: () => page.loading > 0,
  model: () => page.model,
  input: (strokes, pen) => inputOf(strokes, pen),
  say,
  onbusy(busy) {
    page.busy = busy;
    const next = afterwards;
    afterwards = null;
    if (!busy && next) next();
    $('timing').textContent = busy ? 'Training: it reads your drawing between two steps' : '\u00a0';
    request();
  },
  onbegun(described) {
    adopt(described);
    request();
  },
  // The drawing on the pad is read as the network learns.
  onmeasured: request,
  ontaught(bytes) {
    // What has been learnt survives a lost device.
    page.source = bytes;
    $('built-in').disabled = false;
    describeModel(`The model that was taught here, with ${classNames().slice(10).map((name) => `“${name}”`).join(', ')}.`);
  },
  async onfailed(error, engine) {
    // A training that ended halfway leaves another model behind, and a worker that may still be in it.
    if (engine === page.engine && !restarting.has(error.code)) await engine.call('finishTraining').catch(() => {});
    const second = engine === page.engine && !restarting.has(error.code) ? await load({ tell: false }) : null;
    await fail(error, engine, second);
  },
  onreset: () => load({ source: null, said: 'Built-in model: mnist-2-64, as it was. Symbol and examples are forgotten.', afresh: true }),
  ontry() {
    touch();
    pad.clear();
    $('draw').scrollIntoView({ behavior: still.matches ? 'instant' : 'smooth' });
    $('pad').focus({ preventScroll: true });
  },
});

// The network's input.

/** The network's input for a drawing. */
function inputOf(strokes, pen) {
  const { img_size: size, mean = [0], std = [1] } = page.config;
  return normalised(picture(strokes, { size, pen }), mean[0], std[0]);
}

/** What is on the pad: strokes as the network takes them, or an image that the library prepares as it does files. */
function read() {
  if (!pad.picture && page.config.in_chans === 1) return inputOf(pad.strokes);
  // Drawn in ink on paper, whatever the page's colours.
  const source = pad.picture ?? pad.copy({ ink: '#000' });
  const scale = Math.min(1, 512 / Math.max(source.width, source.height));
  const [width, height] = [source.width, source.height].map((v) => Math.max(1, Math.round(v * scale)));
  const context = new OffscreenCanvas(width, height).getContext('2d');
  // Both may be transparent; paper is white.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** The picture that an input is: values in [0, 1] of each channel, and their mean. */
function seenIn(input) {
  const { img_size: size, in_chans, mean = [], std = [] } = page.config;
  const channels = Array.from({ length: in_chans }, (_, c) =>
    input.subarray(c * size * size, (c + 1) * size * size).map((v) => v * (std[c] ?? 1) + (mean[c] ?? 0)),
  );
  const pixels = channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / in_chans);
  return { size, channels, pixels };
}

// Inference: one at a time, the latest drawing wins, no oftener than the screen shows.

/** Whether the page is kept for times without a network, or about to be. */
let kept = false;
let wanted = false;
let running = false;
let resting = 0;
let waiting = 0;

function request() {
  wanted = true;
  document.documentElement.dataset.state = 'busy';
  wait();
  if (!running) requestAnimationFrame(infer);
}

/** Whether a call failed as its model was replaced meanwhile: the next one asks what has taken its place. */
const replaced = (error, engine, model) => engine === page.engine && error.code === 'bad-input' && (page.loading > 0 || model !== page.model);

async function infer() {
  const { engine, model } = page;
  if (running || !wanted || !page.ready || page.loading) return;
  wanted = false;
  clearTimeout(resting);
  if (pad.empty) {
    showNothing();
    rest();
    return;
  }
  running = true;
  wait();
  try {
    const result = await engine.call('trace', read());
    if (engine === page.engine && model === page.model && !pad.empty && !page.loading) {
      show(result);
      explaining.input = result.input;
      if (page.busy) {
        // Between two steps of training the hand is not waited for: what is drawn is read seldom enough.
        if (explaining.question) await explain();
        if (!wanted) rest();
      } else {
        // While the hand draws the answer is of before.
        if (explaining.question) $('why').setAttribute('aria-busy', 'true');
        resting = setTimeout(time, 250, engine, result.input);
      }
    }
  } catch (error) {
    if (!replaced(error, engine, model)) {
      // What is shown is of another drawing or model.
      if (engine === page.engine) showNothing('No answer');
      rest();
      fail(error, engine);
    }
  } finally {
    if (engine === page.engine) running = false;
    if (wanted) requestAnimationFrame(infer);
  }
}

/** Times inference by itself, once the hand rests: reading every spike out takes longer than computing it. */
async function time(engine, input) {
  if (running || page.busy || page.loading || engine !== page.engine) return;
  const { model } = page;
  if (explaining.question) await explain();
  try {
    const times = [];
    for (let i = 0; i < 3 && !wanted; i++) times.push(await engine.call('time', input));
    if (times.length < 3) return;
    $('timing').textContent = `${shortly(Math.min(...times))} for one inference, ${page.where}`;
    rest();
  } catch (error) {
    if (!replaced(error, engine, model)) fail(error, engine);
  }
}

// Why a neuron fired: the one that was pointed at last, anew for every drawing.

const explaining = { question: null, input: null };
const CHOOSE = 'Choose a layer and step through its spikes, or click a dot above: its membrane, and what drove it.';

function ask(question) {
  explaining.question = question;
  $('why-layer').value = question.layer;
  if (page.ready && explaining.input) explain({ aloud: true });
}

/** Asks the network about the neuron; the last question's answer is shown, and said if the visitor has just asked. */
async function explain({ aloud = false } = {}) {
  const { engine, model } = page;
  const { question, input } = explaining;
  try {
    const answer = await engine.call('why', input, question);
    if (engine !== page.engine || question !== explaining.question || input !== explaining.input) return;
    const said = why.show(answer);
    if (aloud) say(said);
    $('why').removeAttribute('aria-busy');
  } catch (error) {
    if (question === explaining.question) forgetQuestion();
    if (!replaced(error, engine, model)) fail(error, engine);
  }
}

function forgetQuestion() {
  [explaining.question, explaining.input] = [null, null];
  $('why').removeAttribute('aria-busy');
  why.say(CHOOSE);
}

/** The layers that can be asked about. */
function nameLayers(layers) {
  const key = layers.map(({ name }) => name).join();
  if ($('why-layer').dataset.key === key) return;
  $('why-layer').dataset.key = key;
  $('why-layer').replaceChildren(...layers.map(({ name }) => new Option(called(name), name)));
  explaining.question = null;
}

$('why-next').addEventListener('click', () => {
  const layer = $('why-layer').value;
  raster.pause();
  const { question } = explaining;
  const next = raster.next(layer, question?.layer === layer ? question : null);
  if (next) return ask(next);
  explaining.question = null;
  const nothing = `Nothing fires in ${called(layer)} at this timestep.`;
  why.say(nothing);
  say(nothing);
});

/** Marks what is shown as of before, where an answer takes its time: between two steps of training, for one. */
function wait() {
  if (page.ready) waiting ||= setTimeout(() => $('reading').setAttribute('aria-busy', 'true'), 300);
}

/** What is shown is of what is drawn. */
function current() {
  clearTimeout(waiting);
  waiting = 0;
  $('reading').removeAttribute('aria-busy');
}

/** And nothing more will come. */
function rest() {
  current();
  document.documentElement.dataset.state = 'rest';
}

const shortly = (milliseconds) => `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;

// What is shown.

const number = new Intl.NumberFormat('en');
const percent = (p) => (p > 0.9995 && p < 1 ? '> 99.9 %' : `${(100 * p).toFixed(1)} %`);

function amount(n) {
  if (n >= 1e6) return `${(n / 1e6).toPrecision(3)} million`;
  return number.format(Math.round(n));
}

const energy = (pJ) => (pJ >= 1e6 ? `${(pJ / 1e6).toPrecision(3)} µJ` : `${(pJ / 1e3).toPrecision(3)} nJ`);

function show({ input, logits, layers, attention: maps, operations }) {
  const seen = seenIn(input);
  const classes = ranked(logits);
  const [first, second] = classes;
  $('answer').textContent = $('answer').title = first.name;
  $('answer').parentElement.classList.toggle('word', first.name.length > 1);
  $('answer').parentElement.style.setProperty('--letters', String(first.name.length));
  $('sure').textContent = percent(first.probability);
  // The network is sure of nonsense, too: only who has drawn it knows.
  $('odd').hidden = !knowsDigits(page.config) || untouched;
  $('second').textContent = second && second.probability >= 0.01 ? `or ${second.name}, ${percent(second.probability)}` : 'nothing else comes near';
  showBars(classes);
  showSeen(seen);
  raster.show(layers);
  nameLayers(layers);
  $('why-next').disabled = false;
  attention.show(maps, seen);
  showCost(operations, layers);
  current();
  if (laid) {
    describePicture(`Picture: ${laid}, read as ${first.name}, ${percent(first.probability)}.`);
    laid = '';
  }
  announce(`${first.name}, ${percent(first.probability)}`);
  keep();
}

function ranked(logits) {
  const highest = Math.max(...logits);
  const parts = Array.from(logits, (v) => Math.exp(v - highest));
  const sum = parts.reduce((a, b) => a + b);
  const names = classNames();
  return parts.map((v, index) => ({ index, name: names[index], probability: v / sum })).sort((a, b) => b.probability - a.probability);
}

const classNames = ({ class_names: names, num_classes: n } = page.config) => names ?? Array.from({ length: n }, (_, i) => String(i));

function makeBars(names) {
  const rows = names.slice(0, names.length > MOST_BARS ? 10 : MOST_BARS);
  $('bars').classList.toggle('changing', names.length > MOST_BARS);
  $('bars').replaceChildren(
    ...rows.map((name) => {
      const row = document.createElement('li');
      for (const part of ['name', 'track', 'number']) {
        const span = document.createElement('span');
        span.className = part;
        row.append(span);
      }
      row.children[1].append(document.createElement('i'));
      const unit = document.createElement('span');
      unit.className = 'unit';
      row.children[2].append('–', unit);
      row.children[0].textContent = row.children[0].title = name;
      return row;
    }),
  );
}

function showBars(classes) {
  const rows = $('bars').children;
  const inOrder = classes.length > MOST_BARS ? classes.slice(0, 10) : [...classes].sort((a, b) => a.index - b.index);
  inOrder.forEach(({ index, name, probability }, i) => {
    const row = rows[i];
    row.children[0].textContent = row.children[0].title = name;
    row.children[1].firstChild.style.setProperty('--p', probability.toFixed(4));
    row.children[2].firstChild.data = (100 * probability).toFixed(probability < 0.9995 ? 1 : 0);
    row.children[2].lastChild.textContent = '\u00a0%';
    row.classList.toggle('best', index === classes[0].index);
  });
}

function showSeen({ size, channels }) {
  const canvas = $('seen');
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = 255 * channels[k % channels.length][i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function showCost({ additions, macs, denseMacs, updates, energy: alone, energyWithMemory }, layers) {
  $('additions').textContent = amount(additions);
  $('macs').textContent = amount(macs);
  $('dense').textContent = amount(denseMacs);
  for (const [id, { spiking_pJ, dense_pJ }] of [['energy', alone], ['memory', energyWithMemory]]) {
    const most = Math.max(spiking_pJ, dense_pJ);
    for (const [of, pJ] of [['spiking', spiking_pJ], ['dense', dense_pJ]]) {
      $(`${id}-${of}-number`).textContent = energy(pJ);
      $(`${id}-${of}`).style.setProperty('--p', (pJ / most).toFixed(4));
    }
  }
  $('updates').textContent = `${amount(updates)} here`;
  const less = ({ spiking_pJ, dense_pJ }) => {
    const times = dense_pJ / spiking_pJ;
    return times >= 1.05 ? `${times.toPrecision(2)} times less` : times > 0.95 ? 'as much' : `${(1 / times).toPrecision(2)} times more`;
  };
  $('saving').textContent = `${sentence(less(alone)).slice(0, -1)} energy for arithmetic than the dense network, ${less(energyWithMemory)} with memory, by these estimates.`;
  const spikes = layers.reduce((n, { shape: [, , c, h, w], ratePerTimestep: r }) => n + c * h * w * r.reduce((a, b) => a + b), 0);
  const steps = layers[0].shape[0];
  $('fired').textContent =
    `${number.format(Math.round(spikes))} spikes from ${number.format(updates / steps)} neurons in ${steps} timesteps: ` +
    `a mean rate of ${((100 * spikes) / updates).toFixed(1)} %.`;
}

/** What stands where figures of a drawing will be. */
const ENERGIES = ['energy-spiking', 'energy-dense', 'memory-spiking', 'memory-dense'];
const without = ['fired', 'saving', 'additions', 'macs', 'dense', 'updates', ...ENERGIES.map((id) => `${id}-number`)].map(
  (id) => [id, $(id).textContent],
);

/** @param {string} said  What stands in place of the answer. */
function showNothing(said = 'Draw something') {
  for (const [id, text] of without) $(id).textContent = text;
  for (const id of ENERGIES) $(id).style.setProperty('--p', '0');
  $('answer').textContent = '–';
  $('answer').title = '';
  $('answer').parentElement.classList.remove('word');
  $('sure').textContent = said;
  $('odd').hidden = true;
  $('second').textContent = '\u00a0';
  for (const row of $('bars').children) {
    row.classList.remove('best');
    row.children[1].firstChild.style.setProperty('--p', '0');
    row.children[2].firstChild.data = '–';
    row.children[2].lastChild.textContent = '';
  }
  const size = $('seen').width;
  showSeen({ size, channels: [new Float32Array(size * size)] });
  raster.clear();
  forgetQuestion();
  $('why-next').disabled = true;
  attention.clear();
  announce('');
}

let announcing = 0;

/** Tells screen readers the prediction, once the hand rests. */
function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => say(text), 700);
}

function say(text) {
  $('announce').textContent = text;
}

// The model and the device.

/** Takes over what the worker says of the model and of where it runs. */
function adopt({ config, adapter }) {
  const before = page.config && JSON.stringify(classNames());
  page.config = config;
  page.where = adapter.kind === 'cpu' ? 'on the processor' : `on ${adapter.name}`;
  $('device-name').textContent = adapter.kind === 'cpu' ? 'Processor' : `WebGPU${adapter.software ? ', software' : ''}`;
  $('device').dataset.kind = adapter.kind;
  $('device').title = page.where;
  $('title').textContent = knowsDigits(config) ? 'Draw a digit.' : 'Show it a picture.';
  $('samples').classList.toggle('away', !knowsDigits(config));
  if (JSON.stringify(classNames()) !== before) makeBars(classNames());
  attention.prepare(config.depth, config.num_heads);
  teach.refresh();
}

let loaded = Promise.resolve();
/** The load that was asked for last: one that has not begun by then does not begin. */
let latest = 0;
/** The model that went on to the GPU or stayed where it is. */
let moved = 0;

/**
 * Loads a model: onto the processor, which is there at once, and from there to the GPU.
 * @param {object} [how]
 * @param {Uint8Array | File | null} [how.source]  A model file or its bytes; null is the built-in one.
 * @param {string} [how.said]  What to say of the model when it is there.
 * @param {boolean} [how.tell]  Whether a failure is told here.
 * @param {boolean} [how.afresh]  Whether the lesson that is prepared is forgotten, too.
 * @returns {Promise<any>} What it failed with, or null.
 */
async function load({ source, said, tell = true, afresh = false } = {}) {
  const turn = ++latest;
  page.loading++;
  page.engine ??= start();
  const engine = page.engine;
  $('built-in').disabled = true;
  teach.refresh();
  request();
  const loading = loaded.then(async () => {
    if (engine !== page.engine || turn !== latest) return false;
    // After a restart, what there is by then.
    const bytes = source === undefined ? page.source : source instanceof File ? await bytesOf(source) : source;
    const described = await engine.call('load', bytes);
    if (engine !== page.engine) return false;
    page.source = bytes;
    page.model++;
    page.ready = true;
    forgetQuestion();
    adopt(described);
    return true;
  });
  loaded = loading.catch(() => {});
  let failure = null;
  let there = false;
  try {
    there = await loading;
  } catch (error) {
    failure = error;
  }
  page.loading--;
  if (there && said) {
    teach.forget({ lesson: afresh });
    described.picture = '';
    describeModel(said);
    if (afresh) say('Started over: symbol and examples are forgotten');
  }
  if (page.loading) return failure;
  $('built-in').disabled = page.source === null;
  teach.refresh();
  if (!page.ready) {
    showNothing();
    $('sure').textContent = 'There is no network';
    $('device-name').textContent = 'Not running';
  } else if (pad.empty) {
    showNothing();
  }
  request();
  if (failure && tell) await fail(failure, engine);
  if (page.ready && engine === page.engine && moved !== page.model) {
    moved = page.model;
    if (page.device !== 'cpu') await move(engine);
  }
  return failure;
}

async function bytesOf(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch (error) {
    throw Object.assign(new Error(error.message), { code: 'unreadable' });
  }
}

/** Moves the model to the GPU, or says why it stays on the processor. */
async function move(engine) {
  $('device-name').textContent = 'Processor, preparing the GPU';
  try {
    const described = await engine.call('move', page.device);
    if (engine !== page.engine || !described) return;
    adopt(described);
    if (described.adapter.kind === 'webgpu') request();
    else if (told !== withoutGpu(described.adapter.why)) onProcessor(withoutGpu(described.adapter.why));
  } catch (error) {
    if (engine !== page.engine) return;
    adopt({ config: page.config, adapter: { kind: 'cpu' } });
    fail(error, engine);
  }
}

function start() {
  const engine = new Engine();
  engine.addEventListener('progress', ({ detail: { loaded, total, stage } }) => {
    if (page.config || stage !== 'model') return;
    const part = total ? ` ${Math.round((100 * loaded) / total)} %` : '';
    $('sure').textContent = `Loading the network${part}`;
  });
  engine.addEventListener('lost', ({ detail: { reason } }) => {
    fail(Object.assign(new Error(reason), { code: 'device-lost' }), engine);
  });
  return engine;
}

/** A new worker, as the old one may be past help. */
function restart(device, { tell = true } = {}) {
  page.engine?.close();
  page.engine = null;
  page.ready = false;
  running = false;
  page.busy = false;
  page.device = device;
  return load({ tell });
}

// What can go wrong, and what to do.

/** Failures after which the network is started afresh. */
const restarting = new Set(['device-lost', 'out-of-memory', 'gpu']);

/** Why the network runs on the processor, and whether another try can change that. */
const REASONS = {
  'no-webgpu': ['Running on the processor.', 'This browser offers no WebGPU here. Current Chrome, Edge, Firefox and Safari have it on most systems.'],
  insecure: ['Running on the processor.', 'Browsers offer WebGPU to secure pages only: open this one by https, or from localhost.'],
  'no-adapter': ['Running on the processor.', 'The browser offers no hardware GPU. Its settings may have acceleration turned off.', true],
  software: ['Running on the processor.', 'The browser offers no hardware GPU. Its settings may have acceleration turned off.', true],
  refused: ['Running on the processor.', 'The GPU refused to be opened. A newer browser or driver may help.', true],
  'device-lost': ['The GPU was lost.', 'Its driver was reset, or the machine slept. The network goes on, on the processor.', true],
  'out-of-memory': ['The GPU is out of memory.', 'Close what else uses it. The network goes on, on the processor.', true],
  gpu: ['The GPU refused the network.', 'It goes on, on the processor. A newer browser or driver may help.', true],
};

/** The worker's reason; whether the page is secure, the page knows as well. */
const withoutGpu = (why) => (why === 'no-webgpu' && !isSecureContext ? 'insecure' : why);

/** The reason that was told last: it is not told anew with every model. */
let told = '';

function onProcessor(reason) {
  told = reason;
  const [title, text, again] = REASONS[reason] ?? REASONS['no-adapter'];
  const run = () => {
    told = '';
    restart(page.device === 'cpu' ? 'auto' : page.device);
  };
  notice({ title, text, ...(again ? { action: 'Try the GPU again', run: () => training('the GPU can be tried again then', run) || run() } : {}) });
}

/**
 * Says on the page what happened and what to do about it.
 * @param {any} error
 * @param {Engine | null} engine  Where it happened.
 * @param {any} [second]  What failed in going on from there.
 */
async function fail(error, engine, second = null) {
  if (engine !== page.engine || error.code === 'closed') return;
  const wanted = page.device;
  if (restarting.has(error.code)) {
    second = await restart('cpu', { tell: false });
    page.device = wanted;
    if (!second) return onProcessor(error.code);
  } else if (error.code === 'no-webgpu') {
    return onProcessor(withoutGpu(error.why));
  }
  if (second?.code === 'closed') return;
  const [title] = REASONS[error.code] ?? [explained(error).title];
  notice(second ? { ...explained(second), title: `${title} ${explained(second).title}` } : explained(error));
}

/** A failure in words, and what can be done. */
function explained({ code, message }) {
  const restarted = () => restart(page.device);
  const again = { action: 'Try again', run: () => training('the network can be started afresh then', restarted) || restarted() };
  const another = { action: 'Choose another file', run: () => $('file').click() };
  switch (code) {
    case 'bad-model':
      return {
        title: 'This is no model that the page can run.',
        text: `${sentence(ofTheFile(message))}${page.ready ? ' The model you had is still here.' : ''}`,
        ...another,
      };
    case 'unreadable':
      return { title: 'The file cannot be read.', text: 'It may have been moved or changed since it was chosen.', ...another };
    case 'bad-input':
      // What the built-in model cannot read is the drawing's fault; with another it is the model's, too.
      return {
        title: page.source ? 'This model has no answer to it.' : 'The network cannot read this.',
        text: sentence(message),
        ...(page.source ? { action: 'Back to the built-in model', run: backToBuiltIn } : { action: 'Clear the pad', run: () => pad.clear() }),
      };
    case 'network':
      return { title: 'A part of the page did not load.', text: 'The connection failed, or a file is missing where this page is kept.', ...again };
    case 'busy':
      return { title: 'The network is training.', text: 'Stop it first; another model can be loaded then.' };
    case 'unsupported':
      return {
        title: 'This browser cannot run the network.',
        text: 'Its WebAssembly is too old: it lacks vector instructions (SIMD). Update it, or open this page in a current Chrome, Edge, Firefox or Safari.',
      };
    case 'out-of-memory':
      return { title: 'There is too little memory for the network.', text: 'Close other tabs or programs, then try again.', ...again };
    default:
      return { title: 'Something went wrong in the network.', text: `${sentence(message)} Trying again starts it afresh.`, ...again };
  }
}

/** What the library says of “the model” in a sentence about a file. */
function ofTheFile(message) {
  const [, said] = message.match(/^the model: (.*)$/s) ?? [];
  if (!said) return message;
  return /^(is|has|takes|needs|holds|ends|lacks)\b/.test(said) ? `the file ${said}` : `in the file, ${said}`;
}

function sentence(text) {
  const trimmed = String(text ?? '').trim();
  if (!trimmed) return '';
  const first = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** What had the focus before the notice's buttons. */
let before = null;

function notice({ title, text, action = '', run }) {
  $('notice-title').textContent = title;
  $('notice-text').textContent = text;
  $('notice-action').textContent = action;
  $('notice-action').hidden = !action;
  $('notice-action').onclick = () => {
    hideNotice();
    run();
  };
  $('notice').hidden = false;
  // What gets the focus is scrolled to below it.
  document.documentElement.style.setProperty('--covered', `${$('notice').offsetHeight + 16}px`);
}

/** Hides it; the focus goes back to where it was. */
function hideNotice() {
  const focused = $('notice').contains(document.activeElement);
  $('notice').hidden = true;
  document.documentElement.style.removeProperty('--covered');
  if (!focused) return;
  before?.focus();
  if (!before || document.activeElement !== before) $('pad').focus({ preventScroll: true });
}

$('notice').addEventListener('focusin', ({ relatedTarget: from }) => {
  if (!$('notice').contains(from)) before = from;
});
$('notice').addEventListener('keydown', ({ key }) => key === 'Escape' && hideNotice());
$('notice-close').addEventListener('click', hideNotice);

// Files: pictures and models, chosen or dropped.

/** What the visitor wants once training has ended. @type {(() => void) | null} */
let afterwards = null;

/**
 * Whether the network trains, so that no other can take its place, which is said.
 * @param {string} [what]  What can be done once it has ended.
 * @param {() => void} [next]  That, if it is to follow by itself.
 */
function training(what = 'another model can be loaded then', next) {
  if (page.busy) {
    notice({
      title: 'The network is training.',
      text: `Stop it first; ${what}. What it has learned by then is kept.`,
      action: next ? 'Stop, and go on' : 'Stop training',
      run() {
        // It may have ended by itself since.
        if (!page.busy) return next?.();
        afterwards = next ?? null;
        $('stop').click();
      },
    });
  }
  return page.busy;
}

/** What the visitor did last counts: a picture that is decoded by then does not come to lie on the pad. */
let deeds = 0;

/** Whether what is on the pad was drawn by the page itself at the start. */
let untouched = false;

function touch() {
  untouched = false;
  laid = '';
  if (described.picture) describePicture('');
  return ++deeds;
}

const isModel = ({ name }) => /\.safetensors$/i.test(name);

/** Takes the last model of some files, and their last picture. @param {FileList} files */
function take(files) {
  const model = [...files].findLast(isModel);
  const picture = [...files].findLast((file) => !isModel(file));
  if (model && !training()) load({ source: model, said: `${shortened(model.name)}, read from this machine.` });
  if (picture) lay(picture);
}

/** What is said of the model, and of the picture that lies on the pad. */
const described = { model: $('model-said').textContent, picture: '' };

function describeModel(said) {
  described.model = said;
  $('model-said').textContent = [said, described.picture].filter(Boolean).join(' ');
}

/** The picture's name, until it has been read. */
let laid = '';

function describePicture(text) {
  described.picture = text;
  describeModel(described.model);
}

/** A file's name in a sentence: of a long one the beginning, and the end with its kind. */
const shortened = (name) => (name.length > 44 ? `${name.slice(0, 24)}…${name.slice(-16)}` : name);

/** Scrolls to pad and answer, where the pad is not in sight. */
function bringToSight() {
  const { top, bottom } = $('pad').getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) $('draw').scrollIntoView({ behavior: still.matches ? 'instant' : 'smooth' });
}

/** Lays a picture on the pad. @param {File} file */
async function lay(file) {
  const deed = touch();
  document.documentElement.dataset.state = 'busy';
  try {
    const decoded = await createImageBitmap(file);
    if (deed !== deeds) return decoded.close();
    laid = shortened(file.name);
    pad.show(decoded);
    bringToSight();
  } catch {
    const kind = await pictureKind(file);
    if (deed !== deeds) return;
    rest();
    const name = `“${shortened(file.name)}”`;
    const [title, text] = {
      svg: [`${name} is a drawing of lines (SVG).`, 'The page takes pictures made of pixels: save it as PNG, or take a picture of the screen.'],
      large: [`${name} is too large a picture for this browser.`, 'Save a smaller copy: a few hundred pixels to a side are plenty.'],
      none: [
        `${name} is neither a picture nor a model.`,
        'The page takes pictures that the browser can show (PNG, JPEG, WebP, …) and models in .safetensors files.',
      ],
    }[kind];
    notice({ title, text, action: 'Choose another file', run: () => $('file').click() });
  }
}

/** What a file is that has no pixels to be had: a drawing of lines, a picture that is too large, or none. @param {File} file */
async function pictureKind(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  const shown = await new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
  });
  URL.revokeObjectURL(image.src);
  if (!shown) return 'none';
  return file.type.startsWith('image/svg') || /\.svg$/i.test(file.name) ? 'svg' : 'large';
}

// A name that has no room is shown in full when it is touched; a mouse has its title.
$('bars').addEventListener('click', ({ target }) => target.closest('.name')?.classList.toggle('whole'));

$('choose').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', () => {
  take($('file').files);
  $('file').value = '';
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  document.documentElement.classList.add('dropping');
});
for (const end of ['dragleave', 'drop']) addEventListener(end, () => document.documentElement.classList.remove('dropping'));
addEventListener('drop', (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
function backToBuiltIn() {
  if (training()) return;
  $('model-said').focus({ preventScroll: true });
  load({ source: null, said: 'Built-in model: mnist-2-64.' });
}

$('built-in').addEventListener('click', backToBuiltIn);

// The pad and its buttons.

pad.addEventListener('start', () => {
  if (untouched) pad.strokes = [];
  touch();
});
$('pad').addEventListener('keydown', () => deeds++);
pad.addEventListener('change', () => {
  $('pad-hint').hidden = !pad.empty;
  $('undo').disabled = $('clear').disabled = pad.empty;
  request();
});
pad.addEventListener('say', (event) => say(event.detail));
for (const id of ['undo', 'clear']) {
  $(id).addEventListener('click', () => {
    touch();
    pad[id]();
    if ($(id).disabled) pad.focus();
  });
}

let seed = 0;
for (let digit = 0; digit < 10; digit++) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = String(digit);
  button.setAttribute('aria-label', `Draw a ${digit}`);
  button.addEventListener('click', () => {
    touch();
    pad.play(drawDigit(digit, seed++));
  });
  $('samples').append(button);
}

for (const image of ['dragstart', 'selectstart']) $('pad').addEventListener(image, (event) => event.preventDefault());

document.documentElement.dataset.started = 'yes';
makeBars(BUILT_IN.classes);
raster.prepare(BUILT_IN.layers);
nameLayers(BUILT_IN.layers);
forgetQuestion();
attention.prepare(BUILT_IN.blocks, BUILT_IN.heads);
if (!options.has('still')) {
  untouched = true;
  pad.play(drawDigit(3, 0));
}
if (!DEVICES.includes(page.device)) {
  notice({
    title: `There is no device “${shortened(page.device)}”.`,
    text: `The page's address can choose one with ${DEVICES.map((device) => `?device=${device}`).join(', ')}. The network runs on the processor.`,
  });
  page.device = 'cpu';
}
load().then(() => {
  if (!still.matches && !options.has('still')) raster.begin();
  if (page.ready && pad.empty) keep();
});

/** Has the page kept for times without a network, once what it is for is done. */
function keep() {
  if (kept) return;
  kept = true;
  navigator.serviceWorker?.register('sw.js').catch(() => { /* Then the page needs its host again. */ });
}

addEventListener('beforeunload', (event) => {
  if (teach.unsaved) event.preventDefault();
});
