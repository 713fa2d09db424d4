// The demo page's worker, by its calls: what it says when it fails, and what may run beside a training.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { launch, onPage, serve } from './harness.js';

let server;
let browser;

before(async () => {
  server = await serve();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.close();
});

const evaluate = (work, argument, options) => onPage(browser, server.origin, (page) => page.evaluate(work, argument), options);

/** On a page whose requests `route` answers as it likes: the codes and messages that two calls in a row are refused with. */
const refusals = (routed, route, expected) =>
  onPage(
    browser,
    server.origin,
    async (page) => {
      // What the test itself loads comes first.
      await page.evaluate(() => import('/test-page/page.js').then(() => {}));
      await page.route(routed, route);
      return page.evaluate(async () => {
        const { Engine } = await import('/engine.js');
        const { refused } = await import('/test-page/page.js');
        const engine = new Engine();
        return [await refused(() => engine.call('load', null)), await refused(() => engine.call('load', null))];
      });
    },
    { expected },
  );

test('a worker whose script does not load is a failure of the network', async () => {
  for (const missing of ['**/worker.js', '**/spikeshade/index.js']) {
    const found = await refusals(missing, (route) => route.fulfill({ status: 404, body: '' }), /404|Failed to load/);
    for (const call of found) {
      assert.equal(call.code, 'network', `${missing}: ${JSON.stringify(call)}`);
      assert.match(call.message, /did not load/);
    }
  }
});

test('an error within the worker is a defect, whenever it comes', async () => {
  const early = await refusals('**/worker.js', (route) =>
    route.fulfill({ contentType: 'text/javascript', body: 'throw new Error("spilt milk");' }));
  const late = await refusals('**/worker.js', (route) =>
    route.fulfill({
      contentType: 'text/javascript',
      body: 'postMessage({ event: "started" }); onmessage = () => { throw new Error("spilt milk"); };',
    }));
  for (const call of [...early, ...late]) {
    assert.equal(call.code, 'internal', JSON.stringify(call));
    assert.match(call.message, /spilt milk.*reload the page/);
  }
});

test('a trap of the module within the worker is a defect', async () => {
  const found = await onPage(browser, server.origin, async (page) => {
    await page.evaluate(async () => {
      const { Engine } = await import('/engine.js');
      window.engine = new Engine();
      await window.engine.call('load', null);
    });
    const [worker] = page.workers();
    await worker.evaluate(() => {
      // As the browser reports a trap in a task of the module's.
      const error = Object.assign(new WebAssembly.RuntimeError('unreachable'), { stack: 'at spikeshade_wasm_bg.wasm' });
      setTimeout(() => { throw error; });
    });
    return page.evaluate(async () => {
      const { refused } = await import('/test-page/page.js');
      const until = performance.now() + 15_000;
      for (;;) {
        const call = await refused(() => window.engine.call('save'));
        if (call !== 'nothing' || performance.now() > until) return call;
      }
    });
  }, { expected: /unreachable/ });
  assert.equal(found.code, 'internal', JSON.stringify(found));
  assert.match(found.message, /unreachable.*reload the page/);
});

test('the worker keeps nothing of the drawings that it has read', async () => {
  const found = await onPage(browser, server.origin, async (page) => {
    await page.evaluate(async () => {
      const { Engine } = await import('/engine.js');
      window.engine = new Engine();
      await window.engine.call('load', null);
    });
    const [worker] = page.workers();
    const read = (times) =>
      page.evaluate(async (times) => {
        const x = new Float32Array(784).map((_, i) => (i % 7 ? -0.4 : 2.8));
        for (let i = 0; i < times; i += 1) await window.engine.call('trace', x);
      }, times);
    const size = () =>
      worker.evaluate(async (origin) => {
        const { default: init } = await import(`${origin}/spikeshade/spikeshade_wasm.js`);
        return (await init()).memory.buffer.byteLength;
      }, server.origin);
    await read(20);
    const before = await size();
    await read(300);
    return [before, await size()];
  });
  assert.equal(found[1], found[0], `the module's memory grew from ${found[0]} to ${found[1]} bytes`);
});

test('calls that make no sense are refused in words', async () => {
  const found = await evaluate(async () => {
    const { Engine } = await import('/engine.js');
    const { refused } = await import('/test-page/page.js');
    const engine = new Engine();
    const before = await Promise.all(['save', 'predict', 'trace', 'move', 'startTraining'].map((method) => refused(() => engine.call(method))));
    await engine.call('load', null);
    const steps = [await refused(() => engine.call('step', new Float32Array(784), [1])), await refused(() => engine.call('finishTraining'))];
    engine.close();
    return { before, steps, closed: await refused(() => engine.call('save')) };
  });
  for (const call of found.before) assert.deepEqual([call.code, /no model is loaded/.test(call.message)], ['bad-input', true], JSON.stringify(call));
  for (const call of found.steps) assert.deepEqual([call.code, /no training/.test(call.message)], ['bad-input', true], JSON.stringify(call));
  assert.equal(found.closed.code, 'closed');
});

test('a drawing is read by one model, also where another takes its place meanwhile', async () => {
  const found = await evaluate(async () => {
    const { Engine } = await import('/engine.js');
    const { refused } = await import('/test-page/page.js');
    const engine = new Engine();
    await engine.call('load', null);
    const other = new Uint8Array(await (await fetch('/spikeshade/mnist-2-64.safetensors')).arrayBuffer());
    const answers = [];
    const picture = new ImageData(new Uint8ClampedArray(4 * 784).fill(255), 28, 28);
    for (let round = 0; round < 2; round += 1) {
      // Where an answer waits for a device, other calls come in between.
      await engine.call('move', 'gpu');
      const read = () => answers.push(refused(() => engine.call('trace', picture)));
      for (let i = 0; i < 4; i += 1) read();
      const loading = engine.call('load', other);
      for (let i = 0; i < 4; i += 1) read();
      await loading;
    }
    const told = await Promise.all(answers);
    engine.close();
    return told;
  });
  assert.equal(found.length, 16);
  for (const call of found) assert.equal(call, 'nothing');
});

test('no model is loaded beside a training, and no second training begins', async () => {
  const found = await evaluate(async () => {
    const { Engine } = await import('/engine.js');
    const { refused } = await import('/test-page/page.js');
    const engine = new Engine();
    // A training that is asked for while a model loads waits for it.
    const loading = engine.call('load', null);
    const starting = engine.call('startTraining', { learningRate: 1e-3, addClasses: ['star'] });
    const during = [await refused(() => engine.call('load', null)), await refused(() => engine.call('startTraining', {}))];
    await loading;
    const { config } = await starting;
    const x = new Float32Array(2 * 784).map((_, i) => (i % 5 ? 0 : 2));
    const losses = [];
    for (let i = 0; i < 4; i += 1) losses.push((await engine.call('step', x, [10, 10])).loss);
    during.push(await refused(() => engine.call('load', null)));
    await engine.call('finishTraining');
    const after = (await engine.call('load', null)).config.class_names.length;
    // A step that fails ends the training, and another can begin.
    await engine.call('startTraining', {});
    const failed = await refused(() => engine.call('step', x, [99, 99]));
    const again = (await engine.call('load', null)).config.class_names.length;
    // And one that never begins.
    const never = await refused(() => engine.call('startTraining', { learningRate: -1 }));
    await engine.call('load', null);
    engine.close();
    return { during, classes: config.class_names, losses, after, failed, again, never };
  });
  for (const call of found.during) {
    assert.equal(call.code, 'busy', JSON.stringify(call));
    assert.match(call.message, /a training runs/);
  }
  assert.equal(found.classes.at(-1), 'star');
  assert.ok(found.losses.at(-1) < 0.9 * found.losses[0], `${found.losses}`);
  assert.deepEqual([found.after, found.again], [10, 10]);
  assert.equal(found.failed.code, 'bad-input');
  assert.equal(found.never.code, 'bad-input');
});

test('a move to the GPU does not replace what is learned', async () => {
  const found = await evaluate(async () => {
    const { Engine } = await import('/engine.js');
    const engine = new Engine();
    await engine.call('load', null);
    const x = new Float32Array(2 * 784).map((_, i) => (i % 5 ? 0 : 2));
    // One that is under way is waited for: the training then is on the GPU.
    const first = engine.call('move', 'gpu');
    const started = await engine.call('startTraining', { learningRate: 3e-3, addClasses: ['star'] });
    const kinds = [(await first).adapter.kind, started.adapter.kind];
    const losses = [];
    for (let i = 0; i < 3; i += 1) losses.push((await engine.call('step', x, [10, 10])).loss);
    // One that is asked for meanwhile waits for the training, and moves what was learned.
    let moved = false;
    const second = engine.call('move', 'gpu').then((described) => (moved = true, described));
    for (let i = 0; i < 3; i += 1) losses.push((await engine.call('step', x, [10, 10])).loss);
    const early = moved;
    await engine.call('finishTraining');
    const learned = await engine.call('save');
    const { config } = await second;
    const kept = await engine.call('save');
    engine.close();
    const same = learned.length === kept.length && learned.every((byte, i) => byte === kept[i]);
    return { kinds, early, losses, same, classes: config.class_names.length };
  });
  assert.deepEqual(found.kinds, ['webgpu', 'webgpu']);
  assert.equal(found.early, false);
  assert.equal(found.classes, 11);
  assert.ok(found.losses.at(-1) < 0.9 * found.losses[0], `${found.losses}`);
  assert.ok(found.same, 'the moved model has the weights that were learned');
});

test('a move that finds no GPU says why', async () => {
  const other = await launch({ gpu: false, args: ['--host-resolver-rules=MAP spikeshade.test 127.0.0.1'] });
  try {
    for (const [origin, why] of [[server.origin, 'no-adapter'], [server.origin.replace('localhost', 'spikeshade.test'), 'insecure']]) {
      const found = await onPage(other, origin, (page) =>
        page.evaluate(async () => {
          const { Engine } = await import('/engine.js');
          const engine = new Engine();
          const loaded = await engine.call('load', null);
          const moved = await engine.call('move', 'auto');
          const forced = await engine.call('move', 'gpu').catch(({ name, code, why, message }) => ({ name, code, why, message }));
          engine.close();
          return { before: loaded.adapter.why, adapter: moved.adapter, forced };
        }));
      assert.deepEqual([found.before, found.adapter.kind, found.adapter.why], [null, 'cpu', why]);
      assert.deepEqual([found.forced.name, found.forced.code, found.forced.why], ['EngineError', 'no-webgpu', why]);
      assert.ok(found.adapter.notice.startsWith(found.forced.message.split(';')[0]), `${found.adapter.notice} and ${found.forced.message}`);
    }
  } finally {
    await other.close();
  }
});

test('another model that is loaded during a move is the one that stays', async () => {
  const found = await evaluate(async () => {
    const { Engine } = await import('/engine.js');
    const engine = new Engine();
    await engine.call('load', null);
    const moving = engine.call('move', 'gpu');
    const other = new Uint8Array(await (await fetch('/test-fixtures/tiny_eval.safetensors')).arrayBuffer());
    // Of two that are asked for at once the last one stays.
    const [, loaded] = await Promise.all([engine.call('load', null), engine.call('load', other)]);
    const moved = await moving;
    const bytes = await engine.call('save');
    engine.close();
    return { moved, loaded: loaded.config.embed_dim, saved: new TextDecoder('latin1').decode(bytes.subarray(0, 4000)) };
  });
  assert.equal(found.moved, null);
  assert.ok(found.saved.includes(`\\"embed_dim\\": ${found.loaded}`) || found.saved.includes(`\\"embed_dim\\":${found.loaded}`), found.saved.slice(0, 500));
});

test('the page and its worker can reach nothing but where they came from', async () => {
  const other = await serve();
  try {
    const found = await onPage(
      browser,
      server.origin,
      async (page) => {
        await page.waitForFunction(() => document.getElementById('device')?.dataset.kind === 'cpu');
        const [worker] = page.workers();
        const reach = async (address) => {
          const told = new Promise((resolve) => {
            addEventListener('securitypolicyviolation', ({ effectiveDirective }) => resolve(effectiveDirective), { once: true });
            setTimeout(resolve, 15_000, 'nothing');
          });
          const answer = await fetch(address, { mode: 'no-cors' }).then(({ type }) => type, (e) => e.name);
          return answer === 'TypeError' ? [answer, await told] : [answer];
        };
        const own = `${server.origin}/app.js`;
        const [of, from] = [[page, worker], [own, `${other.origin}/app.js`]];
        return Promise.all(of.map(async (where) => [await where.evaluate(reach, from[0]), await where.evaluate(reach, from[1])]));
      },
      { address: '/?device=cpu&still', expected: /Content Security Policy|Content-Security-Policy|violates/ },
    );
    for (const answers of found) assert.deepEqual(answers, [['basic'], ['TypeError', 'connect-src']]);
    assert.equal(other.answered(), 0);
  } finally {
    other.close();
  }
});
