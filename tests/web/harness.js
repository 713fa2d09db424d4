// A static server, a browser and a page for each test.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = path.dirname(fileURLToPath(import.meta.url));
export const repository = process.env.SPIKESHADE_ROOT ?? path.join(here, '../..');
export const site = process.env.SPIKESHADE_SITE ?? path.join(repository, 'target/web/site');
/** Where pictures of the page are kept. */
export const screenshots = path.join(site, '../screenshots');
export const program = process.env.SPIKESHADE_PROGRAM ?? path.join(repository, 'target/debug/spikeshade');
export const fixtures = path.join(repository, 'tests/fixtures');

const types = {
  '.css': 'text/css',
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

/** Writes a `.safetensors` file of one f32 tensor `x`. */
function writeInput(file, shape, values) {
  const header = Buffer.from(JSON.stringify({ x: { dtype: 'F32', shape, data_offsets: [0, 4 * values.length] } }).padEnd(64));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  fs.writeFileSync(file, Buffer.concat([length, header, Buffer.from(Float32Array.from(values).buffer)]));
}

/** A `.safetensors` file's tensors: shape, and values of those that are f32. */
export function readTensors(file) {
  const bytes = fs.readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const { __metadata__: _, ...entries } = JSON.parse(bytes.subarray(8, 8 + length));
  const of = ([name, { dtype, shape, data_offsets: [from, to] }]) => {
    const data = () => [...new Float32Array(new Uint8Array(bytes.subarray(8 + length + from, 8 + length + to)).buffer)];
    return [name, { shape, data: dtype === 'F32' ? data : undefined }];
  };
  return new Map(Object.entries(entries).map(of));
}

/** The command line's answer, as JSON. */
export const native = (...args) => JSON.parse(execFileSync(program, [...args, '--json'], { encoding: 'utf8' }));

/** The logits that the command line gives for values. */
export function nativeLogits(model, shape, values) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'spikeshade-web-'));
  try {
    const at = (name) => path.join(folder, name);
    writeInput(at('x.safetensors'), shape, values);
    native('forward', '--device', 'cpu', '-m', model, '-i', at('x.safetensors'), '-o', at('y.safetensors'));
    return readTensors(at('y.safetensors')).get('logits').data();
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/** Where an address's file is: the site, and beside it what only tests need. */
function located(pathname, site) {
  const roots = { '/test-fixtures/': fixtures, '/test-images/': path.join(repository, 'examples/images'), '/test-page/': here };
  const prefix = Object.keys(roots).find((p) => pathname.startsWith(p));
  const root = prefix ? roots[prefix] : site;
  const file = path.join(root, decodeURIComponent(pathname.slice(prefix ? prefix.length : 1)));
  return file.startsWith(root) ? file : undefined;
}

/** Serves the site, or a copy of it; `/blank` is an empty page. `answered` says how many requests it got. */
export async function serve(folder = site) {
  let requests = 0;
  const server = http.createServer((request, response) => {
    requests += 1;
    const { pathname } = new URL(request.url, 'http://localhost');
    if (pathname === '/blank' || pathname === '/favicon.ico') {
      response.writeHead(pathname === '/blank' ? 200 : 204, { 'content-type': 'text/html' });
      return response.end(pathname === '/blank' ? '<!doctype html><meta charset=utf-8><title>test</title>' : undefined);
    }
    const file = located(pathname === '/' ? '/index.html' : pathname, folder);
    if (!file || !fs.existsSync(file)) return response.writeHead(404).end();
    const bytes = fs.readFileSync(file);
    const type = types[path.extname(file)] ?? 'application/octet-stream';
    response.writeHead(200, { 'content-type': type, 'content-length': bytes.length }).end(bytes);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { origin: `http://localhost:${server.address().port}`, answered: () => requests, close: () => server.close() };
}

// Dawn clears workgroup memory ahead of every kernel, for which SwiftShader's compiler takes fifteen times as long as for the
// kernel. Every kernel writes its workgroup memory before it reads it, and natively it is not cleared either.
const webgpu = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-dawn-features=disable_workgroup_init'];
const quiet = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic'];

/** Headless Chromium, with SwiftShader behind WebGPU unless it is to have none. */
export function launch({ gpu = true, args = [] } = {}) {
  const sandbox = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [...quiet, ...sandbox, ...(gpu ? webgpu : []), ...args],
  });
}

/**
 * Opens an empty page, runs `work` on it, and fails for every error on its console that `expected` does not fit.
 * `setup` runs on the page ahead of everything else.
 */
export async function onPage(browser, origin, work, { expected, setup, address = '/blank' } = {}) {
  const page = await browser.newPage();
  page.setDefaultTimeout(240_000);
  const errors = [];
  const note = (text) => expected?.test(text) || errors.push(text);
  page.on('console', (message) => message.type() === 'error' && note(`${message.text()} ${message.location().url}`));
  page.on('pageerror', (error) => note(String(error.stack ?? error)));
  try {
    if (setup) await page.addInitScript(setup);
    await page.goto(origin + address);
    const result = await work(page);
    assert.deepEqual(errors, [], 'errors on the console');
    return result;
  } finally {
    await page.close();
  }
}
