/**
 * Keeps the page for times without a network.
 *
 * All files of a version are kept together and served together, so that a page never runs the parts of two: a new version is
 * fetched beside the old one, and takes its place when no page of the old one is open any more.
 */

/** What build-web.sh makes of all files: their hashes, by which each is checked when it is fetched. @type {Record<string, string>} */
const HASHES = {};

/** Another one with every change of a file; build-web.sh writes it. */
const VERSION = 'unbuilt';

/** Of this folder: a host's folders share what is kept. */
const OWN = `spikeshade ${registration.scope} `;
const KEPT = `${OWN}${VERSION}`;

/** All that the page loads. */
const FILES = [
  './',
  'app.js',
  'attention.js',
  'chart.js',
  'colours.js',
  'course.js',
  'digits.js',
  'engine.js',
  'icon.svg',
  'pad.js',
  'raster.js',
  'strokes.js',
  'style.css',
  'teach.js',
  'theme.js',
  'why.css',
  'why.js',
  'worker.js',
  'spikeshade/index.js',
  'spikeshade/mnist-2-64.safetensors',
  'spikeshade/spikeshade_wasm.js',
  'spikeshade/spikeshade_wasm_bg.wasm',
];

/** Of a file that is being replaced on the host, an older or newer one is refused, and the version with it. */
const asked = (file) => new Request(file, { cache: 'reload', ...(HASHES[file] ? { integrity: HASHES[file] } : {}) });

addEventListener('install', (event) => event.waitUntil(keep()));

/** All files, or none. */
async function keep() {
  // A version that was rolled back and comes again may still be the one in use.
  const had = await caches.has(KEPT);
  try {
    await (await caches.open(KEPT)).addAll(FILES.map(asked));
  } catch (error) {
    if (!had) await caches.delete(KEPT);
    throw error;
  }
}

addEventListener('activate', (event) => event.waitUntil(forget()));

/** Former versions go. */
async function forget() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(OWN) && name !== KEPT).map((name) => caches.delete(name)));
}

addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method === 'GET' && new URL(request.url).origin === location.origin) event.respondWith(answer(request));
});

/** What is kept of this version, whatever the address asks besides; else what the network says, of which nothing is kept. */
async function answer(request) {
  const address = request.url.replace(/\/index\.html(?=[?#]|$)/, '/');
  const kept = await caches.open(KEPT).then((cache) => cache.match(address, { ignoreSearch: true })).catch(() => undefined);
  return kept ?? fetch(request);
}
