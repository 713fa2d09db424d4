/**
 * Why a neuron fired at a timestep, or did not: its membrane's path, and the largest parts of its input.
 *
 * @typedef {import('./spikeshade/index.js').Why} Answer
 * @typedef {import('./spikeshade/index.js').Contribution} Contribution
 */

/** How many parts of the input are listed; the rest is summed. */
const LISTED = 8;

/** The drawing of the membrane, in pixels: a timestep, the margins, the height. */
const STEP = 92;
const LEFT = 44;
const RIGHT = 14;
const HEIGHT = 190;
const TOP = 14;
const BOTTOM = 34;

const SVG = 'http://www.w3.org/2000/svg';

export class Why {
  #root;
  #name;

  /**
   * @param {HTMLElement} root  What is shown replaces its children.
   * @param {object} [options]
   * @param {(layer: string) => string} [options.name]  What a layer is called.
   */
  constructor(root, { name = (layer) => layer } = {}) {
    this.#root = root;
    this.#name = name;
    root.classList.add('why');
  }

  /** A line in place of an answer: what to do, or that it is on its way. @param {string} text */
  say(text) {
    this.#root.replaceChildren(html('p', 'quiet', text));
  }

  /** @param {Answer} answer @returns {string} The answer in a sentence. */
  show(answer) {
    const now = answer.path[answer.timestep - 1];
    const [line, column, channel] = answer.place;
    const where = `${this.#name(answer.layer)}, ${placed([line, column, channel])}`;
    const head = html('h4', 'whyhead', where);
    head.title = `${answer.layer}, neuron ${answer.neuron}`;
    const did = now.spike === 0 ? 'stayed silent' : now.spike > 0 ? 'fired' : 'fired a negative spike';
    const reaches = now.spike < 0 ? -answer.threshold : answer.threshold;
    const said = `At timestep ${answer.timestep} it ${did}: its membrane reached ${apart(now.h, reaches)}, the threshold is ${number(reaches)}.`;
    const path = html('figure', 'whypath');
    path.append(drawing(answer), html('figcaption', 'quiet', `The membrane at each timestep. ${decay(answer)} ${reset(answer)}`));
    const membrane = html('div', 'whymembrane');
    membrane.append(head, html('p', 'whysaid', said), path);
    const driven = html('div', 'whyinput');
    driven.append(...this.#parts(answer));
    this.#root.replaceChildren(membrane, driven);
    return `${where}. ${said}`;
  }

  /** The largest contributions, and what the others come to. @param {Answer} answer */
  #parts({ contributions, input, note, timestep }) {
    const active = contributions.filter(({ amount }) => amount !== 0);
    if (active.length === 0) return [html('p', 'quiet', `Nothing reached it at timestep ${timestep}: its input is 0.`)];
    const listed = active.slice(0, LISTED);
    const rest = active.slice(LISTED);
    const largest = Math.abs(listed[0].amount);
    const list = html('ol', 'whyparts');
    list.append(...listed.map((part) => bar(part.amount, largest, this.#from(part))));
    if (rest.length > 0) {
      const others = rest.reduce((sum, { amount }) => sum + amount, 0);
      list.append(bar(others, largest, rest.length === 1 ? 'one smaller part' : `${rest.length} smaller parts together`));
    }
    const of = active.length === 1 ? 'one part' : `${active.length} parts`;
    const title = html('h4', '', `Its input at timestep ${timestep} is ${number(input)}, of ${of}`);
    const said = (note ?? '').replace(/head (\d+)/, (_, head) => `head ${Number(head) + 1}`).replace(/line (\d+), column (\d+)/g, (_, line, column) => `line ${Number(line) + 1}, column ${Number(column) + 1}`);
    return [title, list, ...(said ? [html('p', 'quiet', said)] : [])];
  }

  /** @param {Contribution} part */
  #from({ from, layer, place }) {
    // The answer counts places from 0 on, the page all things from 1.
    const counted = place ? from.replace(/line \d+, column \d+(, channel \d+)?/, (_, channel) => placed(channel ? place : place.slice(0, 2))) : from;
    // A constant is of the layer that is asked about: its operation's own name says no more.
    const text = layer ? counted.replace(layer, this.#name(layer)) : counted.replace(/ of [\w.]+$/, '');
    return text.charAt(0).toUpperCase() + text.slice(1);
  }
}

/** A place, counted from 1. */
const placed = ([line, column, channel]) => [...(channel === undefined ? [] : [`channel ${channel + 1}`]), `line ${line + 1}`, `column ${column + 1}`].join(', ');

/** How the membrane goes from one timestep to the next, in words. @param {Answer} answer */
function decay({ tau, decay_input: divided, v_reset: to }) {
  const rest = to ? ` − ${number(to)}` : '';
  const left = rest ? `(v${rest})` : 'v';
  return divided
    ? `The input x is divided by τ = ${number(tau)}, as what is forgotten of v is: v + (x − ${left}) / τ.`
    : `Of v it forgets one part in τ = ${number(tau)} before the input x: v − ${left} / τ + x.`;
}

/** What a reset does, in words. @param {Answer} answer */
function reset({ v_reset: to, threshold }) {
  return to === null ? `A neuron that fires loses the threshold, ${number(threshold)} (a soft reset).` : `A neuron that fires is reset to ${number(to)}.`;
}

/** One part of the input: to the right of the middle what raises the membrane, to the left what lowers it. */
function bar(amount, largest, from) {
  const item = html('li', '');
  const track = html('span', 'whytrack');
  const fill = html('i', amount < 0 ? 'lowers' : '');
  // The rest may be more than the largest part.
  fill.style.setProperty('--p', Math.min(1, Math.abs(amount) / largest).toFixed(3));
  track.append(fill);
  track.setAttribute('aria-hidden', 'true');
  item.append(track, html('b', '', `${amount > 0 ? '+' : ''}${number(amount)}`), html('span', 'whyfrom', from));
  return item;
}

/** The membrane's path: up or down by the input from what was left, the spike, and the reset. @param {Answer} answer */
function drawing({ path, threshold, ternary, timestep }) {
  const lines = ternary ? [threshold, -threshold] : [threshold];
  const values = [0, ...lines, ...path.flatMap(({ before, h, after }) => [before, h, after])];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const pad = 0.08 * (most - least || 1);
  const y = (v) => TOP + ((most + pad - v) / (most - least + 2 * pad)) * (HEIGHT - TOP - BOTTOM);
  const x = (t, part) => LEFT + (t + part) * STEP;
  const width = LEFT + path.length * STEP + RIGHT;

  const svg = node('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: 'img', 'aria-label': inWords(path, threshold, ternary) });
  svg.append(node('rect', { class: 'now', x: x(timestep - 1, 0), y: 0, width: STEP, height: HEIGHT, rx: 6 }));
  svg.append(node('line', { class: 'zero', x1: LEFT, x2: width - RIGHT, y1: y(0), y2: y(0) }));
  for (const value of lines) svg.append(node('line', { class: 'threshold', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
  for (const [i, value] of [0, ...lines].entries()) {
    // The threshold's number makes room for that of 0 where they are close.
    if (i === 0 && lines.some((v) => Math.abs(y(v) - y(0)) < 14)) continue;
    svg.append(text(number(value), { class: 'tick', x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }));
  }
  path.forEach(({ before, h, spike, after }, t) => {
    const [start, peak, end] = [x(t, 0.08), x(t, 0.6), x(t, 0.92)];
    svg.append(node('polyline', { class: 'membrane', points: `${start},${y(before)} ${peak},${y(h)}` }));
    if (spike !== 0) {
      svg.append(node('line', { class: 'reset', x1: peak, x2: peak, y1: y(h), y2: y(after) }));
      svg.append(node('circle', { class: spike > 0 ? 'spike' : 'spike negative', cx: peak, cy: y(h), r: 5.5 }));
    }
    svg.append(node('line', { class: 'membrane', x1: peak, x2: end, y1: y(after), y2: y(after) }));
    if (t + 1 < path.length) svg.append(node('line', { class: 'membrane', x1: end, x2: x(t + 1, 0.08), y1: y(after), y2: y(path[t + 1].before) }));
    svg.append(text(`t = ${t + 1}`, { class: t + 1 === timestep ? 'tick at' : 'tick', x: x(t, 0.5), y: HEIGHT - 10, 'text-anchor': 'middle' }));
  });
  return svg;
}

/** What the drawing shows, for who does not see it. */
function inWords(path, threshold, ternary) {
  const of = ({ h, spike, after }, t) => {
    const then = spike === 0 ? 'silent' : `${spike > 0 ? 'fires' : 'fires a negative spike'}, reset to ${number(after)}`;
    return `timestep ${t + 1}: ${apart(h, h < 0 && ternary ? -threshold : threshold)}, ${then}`;
  };
  const limits = ternary ? `Thresholds ${number(threshold)} and ${number(-threshold)}` : `Threshold ${number(threshold)}`;
  return `The membrane. ${limits}. ${path.map(of).join('; ')}.`;
}

/** A number with as many digits as tell it from another one. */
function apart(value, other) {
  for (let more = 0; more < 5; more++) {
    const [shown, against] = [number(value, more), number(other, more)];
    if (value === other || shown !== against) return shown;
  }
  return String(value);
}

/** With a minus sign, and as many digits as tell, or `more`. */
function number(value, more = 0) {
  const size = Math.abs(value);
  const digits = (size === 0 ? 0 : size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3) + more;
  const shown = size.toFixed(digits).replace(/\.0+$/, '');
  return value < 0 && Number(shown) !== 0 ? `−${shown}` : shown;
}

function html(tag, name, content = '') {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (content) made.textContent = content;
  return made;
}

function node(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, typeof value === 'number' ? String(Math.round(10 * value) / 10) : value);
  return made;
}

function text(content, attributes) {
  const made = node('text', attributes);
  made.textContent = content;
  return made;
}
