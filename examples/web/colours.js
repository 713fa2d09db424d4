/** The style sheet's colours, for what is painted pixel by pixel. */

const pixel = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });

/**
 * A custom property of the style sheet, also where it names a colour of the system's.
 * @param {string} name
 * @returns {[number, number, number]}
 */
export function colour(name) {
  pixel.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
  pixel.fillRect(0, 0, 1, 1);
  const [r, g, b] = pixel.getImageData(0, 0, 1, 1).data;
  return [r, g, b];
}
