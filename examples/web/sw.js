/** Keeps the page for times without a network: what the host serves comes first, else what it served last. */

const KEPT = 'spikeshade';

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

addEventListener('install', (event) => {
  skipWaiting();
  event.waitUntil(caches.open(KEPT).then((kept) => kept.addAll(FILES)));
});

addEventListener('activate', (event) => event.waitUntil(clients.claim()));

addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method === 'GET' && new URL(request.url).origin === location.origin) event.respondWith(answer(event));
});

/** What the network says, kept for times without one; a full disk or a lost cache costs no answer. */
async function answer(event) {
  const { request } = event;
  try {
    const response = await fetch(request);
    if (response.ok) {
      const copy = response.clone();
      event.waitUntil(caches.open(KEPT).then((kept) => kept.put(request, copy)).catch(() => {}));
    }
    return response;
  } catch (error) {
    const before = await caches.open(KEPT).then((kept) => kept.match(request, { ignoreSearch: true })).catch(() => undefined);
    if (before) return before;
    throw error;
  }
}
