/** The style sheet's colours, for what is painted pixel by pixel. */

/**
 * A custom property of the style sheet, written as `#rrggbb`.
 * @param {string} name
 * @returns {[number, number, number]}
 */
export function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
