/**
 * Teaching the network a new symbol, from a handful of drawings, without its forgetting the digits.
 *
 * course.js says what is trained on and what is measured on; this is the part of the page that does it.
 *
 * @typedef {import('./strokes.js').Stroke} Stroke
 * @typedef {import('./course.js').Lesson} Lesson
 */

import { Chart } from './chart.js';
import { Course, HELD_OUT, RUN, knowsDigits } from './course.js';
import { Pad, trace } from './pad.js';
import { bounds, mapPoints } from './strokes.js';

/** How many examples are asked for, and how many there may be. */
const ENOUGH = 5;
const MOST = 10;

export class Teach {
  /** @type {Stroke[][]} */
  #examples = [];
  /** Symbols that the network has been taught since it was loaded, whose drawings are here. @type {Lesson[]} */
  #taught = [];
  #training = false;
  /** Whether the examples are of a symbol that has been taught. */
  #learned = false;
  /** How the last training ended, until something else is begun. */
  #result = '';
  #stopped = false;
  /** Whether what the network was taught here is in no file. */
  #unsaved = false;
  #page;
  #ui;
  #pad;
  #chart;

  /**
   * @param {object} page  What the page offers.
   * @param {() => import('./engine.js').Engine | null} page.engine
   * @param {() => any} page.config  The model's configuration, or null while there is none.
   * @param {() => boolean} page.loading  Whether another model is about to take its place.
   * @param {() => number} page.model  Tells one loaded model from the next.
   * @param {(strokes: Stroke[], pen?: number) => Float32Array} page.input  The network's input for a drawing.
   * @param {(busy: boolean) => void} page.onbusy
   * @param {(described: any) => void} page.onbegun  Training has begun, with the new class.
   * @param {() => void} page.onmeasured  The network has learned some more.
   * @param {(bytes: Uint8Array) => void} page.ontaught  The model that has learned.
   * @param {(error: Error, engine: import('./engine.js').Engine) => Promise<void>} page.onfailed
   * @param {() => void} page.onreset
   * @param {() => void} page.ontry
   * @param {(text: string) => void} page.say
   */
  constructor(page) {
    this.#page = page;
    const ids = ['symbol', 'symbol-said', 'add', 'example-hint', 'example-clear', 'thumbs', 'train', 'stop', 'train-said', 'unseen', 'unsaved', 'train-progress', 'try', 'save', 'reset', 'new-now', 'digits-now', 'loss-now'];
    this.#ui = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
    this.#pad = new Pad(document.getElementById('example-pad'));
    this.#chart = new Chart(document.getElementById('chart'));

    const ui = this.#ui;
    this.#pad.addEventListener('change', () => this.#update());
    this.#pad.addEventListener('say', (event) => page.say(event.detail));
    ui.symbol.addEventListener('input', () => {
      // The examples of a symbol that has been taught are not those of another.
      if (this.#learned) this.#examples = [];
      this.#learned = false;
      this.#changed();
    });
    ui.add.addEventListener('click', () => this.#add());
    ui['example-clear'].addEventListener('click', () => {
      this.#pad.clear();
      this.#pad.focus();
    });
    ui.train.addEventListener('click', () => this.#train());
    ui.stop.addEventListener('click', () => {
      this.#stopped = true;
      // A button that can do no more loses the focus.
      ui['train-said'].focus();
      ui.stop.disabled = true;
    });
    ui.try.addEventListener('click', () => page.ontry());
    ui.save.addEventListener('click', () => this.#save());
    ui.reset.addEventListener('click', () => {
      ui['train-said'].focus();
      page.onreset();
    });
    addEventListener('themechange', () => this.#showExamples());
    this.#showExamples();
    this.#update();
  }

  get training() {
    return this.#training;
  }

  /** Whether leaving the page loses what the network was taught. */
  get unsaved() {
    return this.#unsaved || this.#training;
  }

  /**
   * Called when another model, or the original, has been loaded.
   * @param {object} [what]
   * @param {boolean} [what.lesson]  Whether symbol and examples go as well; those of a symbol that was taught always do.
   */
  forget({ lesson = false } = {}) {
    if (lesson || this.#learned) {
      this.#examples = [];
      this.#ui.symbol.value = '';
      this.#showExamples();
    }
    if (lesson) this.#pad.clear();
    this.#taught = [];
    this.#learned = false;
    this.#unsaved = false;
    this.#result = '';
    this.#stopped = true;
    this.#chart.clear();
    for (const id of ['new-now', 'digits-now', 'loss-now']) this.#ui[id].textContent = '–';
    this.#ui['train-progress'].style.setProperty('--p', '0');
    this.#update();
  }

  /** Shows what can be done now, and what is missing. */
  refresh() {
    this.#update();
  }

  /** Another lesson is prepared. */
  #changed() {
    this.#result = '';
    this.#showExamples();
    this.#update();
  }

  #add() {
    if (this.#pad.empty || this.#examples.length >= MOST) return;
    this.#examples.push(this.#pad.strokes);
    this.#pad.clear();
    this.#changed();
    this.#pad.focus();
    this.#page.say(`Example ${this.#examples.length} added`);
  }

  #showExamples() {
    const slots = Math.max(ENOUGH, this.#examples.length);
    this.#ui.thumbs.replaceChildren(
      ...Array.from({ length: slots }, (_, i) => {
        const item = document.createElement('li');
        const example = this.#examples[i];
        if (!example) {
          item.className = 'slot';
          item.textContent = String(i + 1);
          item.setAttribute('aria-label', `Example ${i + 1} is missing`);
          return item;
        }
        const button = document.createElement('button');
        button.type = 'button';
        button.className = 'thumb';
        button.setAttribute('aria-label', `Remove example ${i + 1}`);
        button.disabled = this.#training;
        button.append(thumbnail(example));
        button.addEventListener('click', () => {
          this.#examples.splice(i, 1);
          this.#changed();
          (this.#ui.thumbs.querySelectorAll('button')[Math.max(0, i - 1)] ?? this.#ui.add).focus();
        });
        item.append(button);
        return item;
      }),
    );
  }

  /** The symbol's name, without what takes no room; empty where nothing of it can be seen. */
  get #name() {
    const name = this.#ui.symbol.value.replace(/[\u00ad\u200b\u2060\ufeff]/g, '').trim().normalize('NFC');
    return /[^\p{Default_Ignorable_Code_Point}\p{C}\p{Z}\p{M}]/u.test(name) ? name : '';
  }

  /** Why training cannot begin, or nothing. */
  #missing() {
    const config = this.#page.config();
    const name = this.#name;
    if (this.#page.loading()) return 'The network is being loaded.';
    if (!config) return 'The network is not loaded.';
    if (!knowsDigits(config)) return 'This model does not read digits; the page can only teach one that does.';
    if (!name) return this.#ui.symbol.value.trim() ? 'Nothing of this name can be seen; choose another one.' : 'A name is missing.';
    const left = ENOUGH - this.#examples.length;
    if (left > 0) return left === 1 ? 'One more example is missing.' : `${left} more examples are missing.`;
    return '';
  }

  /** Symbols that the model knows, of which there is no drawing here: they cannot be replayed, nor measured. */
  #unseen() {
    const config = this.#page.config();
    if (!config || !knowsDigits(config)) return [];
    const name = this.#name;
    return config.class_names.slice(10).filter((each) => each !== name && !this.#taught.some((lesson) => lesson.name === each));
  }

  #update() {
    const ui = this.#ui;
    const missing = this.#missing();
    const taught = this.#taught.length > 0 && !this.#page.loading();
    ui.add.disabled = this.#pad.empty || this.#training || this.#examples.length >= MOST;
    ui['example-clear'].disabled = this.#pad.empty;
    ui['example-hint'].hidden = !this.#pad.empty;
    ui.unsaved.textContent = this.#unsaved ? 'What it learned is in this tab only, until it is saved.' : '';
    ui.symbol.disabled = this.#training;
    ui.train.disabled = this.#training || missing !== '';
    ui.stop.disabled = !this.#training || this.#stopped;
    ui.try.classList.toggle('strong', this.#result !== '');
    ui.train.classList.toggle('strong', this.#result === '');
    for (const id of ['try', 'save', 'reset']) ui[id].disabled = this.#training || !taught;
    const name = this.#name;
    const exists = this.#page.config()?.class_names?.includes(name);
    ui['symbol-said'].textContent = name && exists && !this.#training && !this.#learned ? `It knows “${name}” already, and will learn it anew.` : '';
    // It stays while the network trains, so that nothing moves.
    if (!this.#training) {
      const unseen = this.#unseen();
      ui.unseen.hidden = unseen.length === 0;
      if (unseen.length) ui.unseen.textContent = `This model knows ${listed(unseen)} from an earlier visit, of which there are no drawings here; it may forget ${unseen.length > 1 ? 'them' : 'it'}.`;
    }
    if (!this.#training) ui['train-said'].textContent = this.#result || missing || 'Ready.';
  }

  async #train() {
    const { config, onbusy, onbegun, onmeasured, ontaught, onfailed } = this.#page;
    const [engine, model] = [this.#page.engine(), this.#page.model()];
    const name = this.#name;
    const lesson = { name, examples: [...this.#examples] };
    const known = config().class_names.includes(name);
    const lessons = [...this.#taught.filter((each) => each.name !== name), lesson];
    const unseen = this.#unseen();
    this.#training = true;
    this.#stopped = false;
    this.#ui.stop.disabled = false;
    this.#ui.stop.focus();
    this.#showExamples();
    this.#update();
    this.#chart.clear();
    this.#said('Preparing the network for training…');
    this.#page.say('Training');
    onbusy(true);
    try {
      const described = await engine.call('startTraining', { learningRate: RUN.learningRate, addClasses: known ? [] : [name] });
      if (engine !== this.#page.engine() || model !== this.#page.model()) {
        throw Object.assign(new Error('another model was loaded'), { code: 'closed' });
      }
      onbegun(described);
      const classes = described.config.class_names;
      const course = new Course(lessons, classes, (strokes, pen) => this.#page.input(strokes, pen));
      const before = await this.#measure(course, engine);
      this.#point(0, before, null);
      let now = before;
      let step = 0;
      const begin = performance.now();
      while (step < RUN.steps && !this.#stopped) {
        const { images, labels } = course.next();
        const { loss } = await engine.call('step', images, labels);
        step++;
        // What was measured meanwhile is in it.
        const left = ((performance.now() - begin) / step) * (RUN.steps - step);
        this.#said(`Step ${step} of at most ${RUN.steps}${step >= TIMED && step < RUN.steps ? `, at most ${lasting(left)} more` : ''}`);
        this.#ui['train-progress'].style.setProperty('--p', String(step / RUN.steps));
        this.#chart.loss(step, loss);
        this.#ui['loss-now'].textContent = loss.toFixed(2);
        if (step % RUN.evaluateEvery === 0 || step === RUN.steps || this.#stopped) {
          now = await this.#measure(course, engine);
          this.#point(step, now, loss);
          onmeasured();
          if (now.symbol >= RUN.known && now.earlier >= RUN.known && now.digits >= Math.min(RUN.known, before.digits)) break;
        }
      }
      await engine.call('finishTraining');
      // Only what is saved survives a lost device; until then nothing has been learned.
      ontaught(await engine.call('save'));
      this.#taught = lessons;
      this.#learned = true;
      this.#unsaved = true;
      const of = (part, n) => `${Math.round(part * n)} of ${n}`;
      const verb = now.symbol >= 0.8 ? 'It knows' : this.#stopped ? 'Stopped. It hardly knows' : 'It hardly knows';
      this.#result =
        `${verb} “${name}”: ${of(now.symbol, HELD_OUT.variations)} new variations right, ` +
        `and ${of(now.digits, HELD_OUT.digits)} digits (${Math.round(before.digits * HELD_OUT.digits)} before)` +
        `${course.heldOutEarlier ? `, ${of(now.earlier, HELD_OUT.variations)} of earlier symbols` : ''}. ${step} steps.` +
        `${unseen.length ? ` Not measured: ${listed(unseen)}.` : ''}`;
      this.#ui['train-progress'].style.setProperty('--p', '1');
    } catch (error) {
      this.#result = 'Training ended before its time; nothing of it is kept.';
      await onfailed(error, engine);
    } finally {
      this.#training = false;
      const { activeElement: focused } = document;
      this.#showExamples();
      this.#update();
      const { stop, try: again, train, 'train-said': said } = this.#ui;
      if (focused === stop || focused === said) ([again, train].find((button) => !button.disabled) ?? said).focus();
      onbusy(false);
      this.#page.say(this.#result);
    }
  }

  #said(text) {
    this.#ui['train-said'].textContent = text;
  }

  /** Of held-out digits, variations of the new symbol and variations of earlier ones, the parts that the network reads right. */
  async #measure(course, engine) {
    const right = async ({ images, labels }) => {
      const answers = await engine.call('predict', images);
      return answers.filter((answer, i) => answer === labels[i]).length / labels.length;
    };
    const { heldOutDigits, heldOutSymbol, heldOutEarlier } = course;
    return {
      digits: await right(heldOutDigits),
      symbol: await right(heldOutSymbol),
      earlier: heldOutEarlier ? await right(heldOutEarlier) : 1,
    };
  }

  #point(step, { digits, symbol }, loss) {
    this.#chart.accuracy(step, symbol, digits);
    this.#ui['new-now'].textContent = `${Math.round(100 * symbol)} %`;
    this.#ui['digits-now'].textContent = `${Math.round(100 * digits)} %`;
    const lossText = loss === null ? '' : `, loss ${loss.toFixed(2)}`;
    const text = `new symbol ${Math.round(100 * symbol)} % right, digits ${Math.round(100 * digits)} %${lossText}`;
    this.#chart.describe(text);
    this.#page.say(`Step ${step}: ${text}`);
  }

  async #save() {
    const engine = this.#page.engine();
    try {
      const bytes = await engine.call('save');
      const plain = (name) => name.match(/[\p{L}\p{M}\p{N}]+/gu)?.join('-') ?? 'symbol';
      const name = this.#taught.map((lesson) => plain(lesson.name)).join('-') || 'model';
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([bytes], { type: 'application/octet-stream' }));
      link.download = `digits-${name}.safetensors`;
      link.click();
      this.#unsaved = false;
      this.#update();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (error) {
      this.#page.onfailed(error, engine);
    }
  }
}

/** After how many steps it is told how long the others take. */
const TIMED = 3;

/** A time in words, upwards. */
function lasting(milliseconds) {
  const seconds = Math.ceil(milliseconds / 1000);
  if (seconds > 90) return `${Math.ceil(seconds / 60)} minutes`;
  return seconds > 10 ? `${5 * Math.ceil(seconds / 5)} seconds` : `${seconds} second${seconds === 1 ? '' : 's'}`;
}

/** Names in a sentence, of many the first few. */
function listed(names) {
  const few = names.length > 5 ? 4 : names.length;
  const quoted = names.slice(0, few).map((name) => `“${name}”`);
  return new Intl.ListFormat('en').format(few < names.length ? [...quoted, `${names.length - few} more`] : quoted);
}

/** A drawing, small. */
function thumbnail(strokes) {
  const canvas = document.createElement('canvas');
  const side = (canvas.width = canvas.height = 96);
  const context = canvas.getContext('2d');
  const box = bounds(strokes);
  const scale = 0.7 / Math.max(box.width, box.height, 0.08);
  const middle = [box.left + box.width / 2, box.top + box.height / 2];
  context.strokeStyle = getComputedStyle(document.body).color;
  context.lineWidth = 8;
  context.lineCap = context.lineJoin = 'round';
  const placed = mapPoints(strokes, ([x, y]) => [0.5 + (x - middle[0]) * scale, 0.5 + (y - middle[1]) * scale]);
  for (const stroke of placed) trace(context, stroke, side);
  return canvas;
}
