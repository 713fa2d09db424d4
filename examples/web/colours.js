/** The style sheet's colours, for what is painted pixel by pixel. */

/** Names a colour to the style sheet: only what it has computed is the one in the page's light or dark, also of the system's. */
const probe = document.createElement('i');
probe.hidden = true;
probe.style.forcedColorAdjust = 'none';
document.documentElement.append(probe);

/** @type {Map<string, [number, number, number]>} */
const known = new Map();
addEventListener('themechange', () => known.clear());

/**
 * A custom property of the style sheet, also where it names a colour of the system's.
 * @param {string} name
 * @returns {[number, number, number]}
 */
export function colour(name) {
  if (!known.has(name)) {
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number));
  }
  return known.get(name);
}
