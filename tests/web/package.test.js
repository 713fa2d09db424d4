// The browser package in Chromium, on WebGPU (SwiftShader) and on the twins in WebAssembly.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { fixtures, launch, native, nativeLogits, onPage, readTensors, repository, serve, site } from './harness.js';

const devices = ['gpu', 'cpu'];
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

const run = (work, options) => onPage(browser, server.origin, work, options);
const evaluate = (work, argument, options) => run((page) => page.evaluate(work, argument), options);

/** Fails where two rows of logits differ by more than `within`. */
function near(found, expected, within) {
  assert.equal(found.length, expected.length);
  const off = found.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i])), 0);
  assert.ok(off <= within, `logits are off by ${off}`);
}

const evals = fs.readdirSync(fixtures).filter((name) => /_eval(grad)?\.safetensors$/.test(name));
assert.ok(evals.length >= 8, `only ${evals} in ${fixtures}`);

for (const device of devices) {
  describe(`on ${device}`, () => {
    for (const name of evals) {
      test(`${name} is reproduced bit for bit`, async () => {
        const found = await evaluate(
          async ([name, device]) => (await import('/test-page/page.js')).fixture(name, device),
          [name, device],
        );
        assert.deepEqual(found.problems, []);
        assert.equal(found.adapter.kind, device === 'gpu' ? 'webgpu' : 'cpu');
        const file = path.join(fixtures, name);
        const given = readTensors(file);
        const traced = [...given.keys()].filter((name) => /^[shuko]\./.test(name)).length;
        assert.equal(found.compared, traced, 'tensors compared');
        assert.ok(traced > 20, `${name} has ${traced} traced tensors`);
        const { shape, data } = given.get('in.x');
        near(found.logits, nativeLogits(file, shape, data()), 1e-6);
      });
    }

    for (const name of ['tiny_traingrad.safetensors', 'tiny_evalgrad.safetensors']) {
      test(`gradients of ${name} are within 1e-4`, async () => {
        const found = await evaluate(
          async ([name, device]) => (await import('/test-page/page.js')).gradients(name, device),
          [name, device],
        );
        assert.ok(found.worst <= 1e-4, `off by ${found.worst} of the largest`);
        assert.ok(found.compared > 20);
        assert.ok(Math.abs(found.loss - found.expected) <= 1e-5 * found.expected);
      });
    }

    test('gradients at other timesteps, and of a sequence', async () => {
      const found = await evaluate(async (device) => {
        const { Spikeshade, refused, tensors } = await import('/test-page/page.js');
        const file = await tensors('/test-fixtures/tiny_evalgrad.safetensors');
        const model = await Spikeshade.load(file.bytes, { device, prepare: false });
        const x = file.of.get('in.x').data;
        const labels = Array.from(file.of.get('in.label').data, Number);
        const { T } = model.config;
        const of = async (x, options) => {
          const { loss, gradients } = await model.gradients(x, labels, options);
          return { loss, head: [...gradients.get('head.weight').data] };
        };
        const still = new Float32Array(2 * x.length);
        [0, 1].forEach((t) => still.set(x, t * x.length));
        const answers = {
          own: await of(x),
          named: await of(x, { timesteps: T }),
          two: await of(x, { timesteps: 2 }),
          sequence: await of(still, { sequence: 2 }),
        };
        const classified = (await model.classify(x, { timesteps: 2 })).logits;
        const logits = (await model.gradients(x, labels, { timesteps: 2 })).logits;
        const off = Math.max(...logits.map((l, i) => Math.abs(l - classified[i])));
        const wrong = [await refused(() => of(x, { timesteps: 99 })), await refused(() => of(still, { sequence: 2, timesteps: 3 }))];
        model.free();
        return { ...answers, off, wrong };
      }, device);
      assert.deepEqual(found.named, found.own);
      assert.notEqual(found.two.loss, found.own.loss);
      assert.deepEqual(found.two, found.sequence);
      assert.ok(found.off < 1e-5, `logits are off by ${found.off}`);
      for (const call of found.wrong) assert.equal(call.code, 'bad-input', JSON.stringify(call));
    });

    test('a model that was trained and saved in the page gives the same logits natively', async () => {
      const found = await evaluate(async (device) => {
        const { Spikeshade, base64, tensors } = await import('/test-page/page.js');
        const file = await tensors('/test-fixtures/tiny_traingrad.safetensors');
        const model = await Spikeshade.load(file.bytes, { device, prepare: false });
        const x = file.of.get('in.x');
        const before = (await model.classify(x.data)).logits;
        const trainer = await model.trainer({ learningRate: 0.01, addClasses: ['star'] });
        const added = (await model.classify(x.data)).logits;
        const labels = [10, 3].slice(0, x.shape[0]);
        const steps = [];
        for (let i = 0; i < 6; i += 1) steps.push(await trainer.step(x.data, labels));
        // Another batch size goes on with what was learned.
        const one = await trainer.step(x.data.slice(0, x.data.length / x.shape[0]), [10], { learningRate: 0.005 });
        const during = (await model.classify(x.data)).logits;
        const same = (await trainer.finish()) === model;
        const { logits } = await model.classify(x.data);
        const saved = await model.save();
        const again = await Spikeshade.load(saved, { device });
        const reloaded = (await again.classify(x.data)).logits;
        const names = again.config.class_names;
        [model, again].forEach((m) => m.free());
        return {
          ...{ same, names, saved: base64(saved), shape: x.shape, x: [...x.data] },
          ...{ before: [...before], added: [...added], during: [...during], logits: [...logits], reloaded: [...reloaded] },
          ...{ losses: steps.map((s) => s.loss), step: { ...steps[0], logits: steps[0].logits.length }, one },
        };
      }, device);
      const old = 10;
      found.added.forEach((logit, i) => i % (old + 1) < old && assert.equal(logit, found.before[Math.floor(i / (old + 1)) * old + (i % (old + 1))]));
      assert.ok(found.losses.at(-1) < 0.8 * found.losses[0], `losses ${found.losses}`);
      assert.ok(found.one.loss < found.losses[0] && found.one.learningRate === 0.005);
      const { loss, gradientNorm, correct, ...step } = found.step;
      assert.deepEqual(step, { total: 2, learningRate: 0.01, logits: 22 });
      assert.ok(loss > 0 && gradientNorm > 0 && [0, 1, 2].includes(correct));
      assert.ok(found.same);
      assert.deepEqual(found.during, found.logits);
      assert.deepEqual(found.reloaded, found.logits);
      assert.equal(found.names[10], 'star');
      const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'spikeshade-web-'));
      try {
        const model = path.join(folder, 'm.safetensors');
        fs.writeFileSync(model, Buffer.from(found.saved, 'base64'));
        // Weights are no longer dyadic: batch norm may be fused into one rounding on a GPU.
        near(found.logits, nativeLogits(model, found.shape, found.x), device === 'cpu' ? 0 : 1e-4);
      } finally {
        fs.rmSync(folder, { recursive: true });
      }
    });
  });
}

test('the types fit a program', () => {
  const here = path.dirname(fileURLToPath(import.meta.url));
  const installed = path.join(here, 'node_modules/spikeshade');
  fs.rmSync(installed, { recursive: true, force: true });
  fs.symlinkSync(path.join(site, 'spikeshade'), installed);
  execFileSync(path.join(here, 'node_modules/.bin/tsc'), ['-p', path.join(here, 'tsconfig.json')], { stdio: 'inherit' });
});

test('pictures are prepared and classified as by the command line', async () => {
  const names = fs.readdirSync(path.join(repository, 'examples/images')).filter((n) => /\.(png|bmp)$/.test(n));
  assert.ok(names.length >= 10);
  const found = await evaluate(async (names) => {
    const { Spikeshade, builtIn, picture } = await import('/test-page/page.js');
    const model = await Spikeshade.load(builtIn, { device: 'cpu' });
    const pictures = await Promise.all(names.map((name) => picture(`/test-images/${name}`)));
    const { batch, logits } = await model.classify(pictures);
    const given = await model.classify(await model.input(pictures));
    if (!given.logits.every((logit, i) => logit === logits[i])) throw new Error('other logits for what `input` gives');
    return batch.map((classes) => classes.slice(0, 5));
  }, names);
  const { images } = native('classify', '--device', 'cpu', ...names.map((n) => path.join(repository, 'examples/images', n)));
  images.forEach(({ top }, i) => {
    const page = found[i].map(({ index, probability }) => ({ class: index, probability }));
    assert.deepEqual(page, top.map(({ class: index, probability }) => ({ class: index, probability })), names[i]);
  });
});

async function first(device) {
  const found = await evaluate(async (device) => {
    const { Spikeshade, builtIn } = await import('/test-page/page.js');
    const stages = [];
    const start = performance.now();
    const model = await Spikeshade.load(builtIn, { device, onProgress: (...stage) => stages.push(stage) });
    const { classes } = await model.classify(new ImageData(new Uint8ClampedArray(4 * 784), 28, 28));
    const milliseconds = performance.now() - start;
    const { kind } = model.adapterInfo();
    return { stages, milliseconds, kind, classes: classes.length, version: Spikeshade.version };
  }, device);
  console.log(`first prediction with device ${device} (${found.kind}): ${found.milliseconds.toFixed(0)} ms`);
  assert.equal(found.classes, 10);
  const of = (name) => found.stages.filter(([, , stage]) => stage === name);
  assert.deepEqual(of('module'), [[0, 1, 'module'], [1, 1, 'module']]);
  assert.deepEqual(of('prepare'), [[0, 1, 'prepare'], [1, 1, 'prepare']]);
  const model = of('model');
  assert.ok(model.length > 1 && model.every(([loaded, total], i) => total === 673808 && loaded >= (model[i - 1]?.[0] ?? 0)));
  assert.equal(model.at(-1)[0], 673808);
  return found.milliseconds;
}

test('the first prediction comes soon, with progress', async () => {
  const times = [await first('auto'), await first('auto'), await first('auto')];
  // Of the twins, which `auto` takes here, on an idle machine; one that has other work takes as much longer as it is loaded.
  const slow = Math.max(1, os.loadavg()[0] / os.cpus().length);
  assert.ok(Math.min(...times) < 3000 * slow, `${times} ms at a load of ${slow}`);
  // A software driver compiles the shaders on the processor: what is asserted is what it says, not when.
  await first('gpu');
});

test('trace, attention maps and operations describe one run', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, picture } = await import('/test-page/page.js');
    const all = [];
    for (const device of ['gpu', 'cpu']) {
      const model = await Spikeshade.load(builtIn, { device });
      const { layers, attention, operations, classes, logits } = await model.trace(await picture('/test-images/five.png'));
      const q = layers.find(({ name }) => name === 's.block.0.attn.q_lif');
      const k = layers.find(({ name }) => name === 'k.block.0.attn');
      const [T, , D, H, W] = q.shape;
      const { heads, map } = attention[0];
      // The definition, term by term: of each key token the mean score over timesteps and queries.
      const N = H * W;
      const brute = new Float64Array(heads * N);
      for (let t = 0; t < T; t += 1)
        for (let c = 0; c < D; c += 1)
          for (let n = 0; n < N; n += 1)
            if (q.data[(t * D + c) * N + n])
              for (let m = 0; m < N; m += 1) brute[Math.floor(c / (D / heads)) * N + m] += k.data[(t * D + c) * N + m] / (T * N);
      const off = map.reduce((most, x, i) => Math.max(most, Math.abs(x - brute[i])), 0);
      const rate = q.data.reduce((n, s) => n + s, 0) / q.data.length;
      const mean = q.ratePerTimestep.reduce((a, b) => a + b) / T;
      all.push({
        ...{ off, largest: Math.max(...map), rate, mean, operations, top: classes[0].name, logits: [...logits] },
        ...{ kinds: [...new Set(layers.map((l) => l.kind))].sort(), maps: attention.length, same: q.data === q.data },
        neurons: layers.filter((l) => l.name.startsWith('s.')).reduce((n, { shape: [, , c, h, w] }) => n + c * h * w, 0),
      });
      model.free();
    }
    return all;
  });
  for (const run of found) {
    assert.ok(run.largest > 0 && run.off <= 1e-5 * run.largest, `attention off by ${run.off}`);
    assert.ok(Math.abs(run.rate - run.mean) < 1e-9 && run.rate > 0);
    assert.deepEqual(run.kinds, ['real', 'spikes', 'ternary']);
    assert.equal(run.maps, 2);
    assert.equal(run.top, '5');
    assert.ok(run.same);
    const { additions, macs, denseMacs, energy } = run.operations;
    // 8 outputs of the first convolution over 82 × 82 taps of the grid, and the head.
    assert.equal(macs, 8 * 82 * 82 + 64 * 10);
    assert.ok(additions > 1e5 && additions < 4 * denseMacs);
    assert.ok(Math.abs(energy.spiking_pJ - (0.9 * additions + 4.6 * macs)) < 1e-6 * energy.spiking_pJ);
    assert.ok(Math.abs(energy.dense_pJ - 4.6 * denseMacs) < 1e-6 * energy.dense_pJ);
    const { updates, denseUpdates, energyWithMemory } = run.operations;
    assert.equal(updates, 4 * run.neurons);
    assert.equal(denseUpdates, run.neurons);
    const near = (found, expected) => assert.ok(Math.abs(found - expected) < 1e-6 * expected, `${found}, not ${expected}`);
    near(energyWithMemory.spiking_pJ, 10.9 * additions + 24.6 * macs + 20 * updates);
    near(energyWithMemory.dense_pJ, 24.6 * denseMacs + 20 * denseUpdates);
  }
  assert.deepEqual(found[0].operations, found[1].operations);
  // As the command's receipt has it.
  const receipt = native('profile', '--device', 'cpu', path.join(repository, 'examples/images/five.png'));
  const { energy, energyWithMemory } = found[1].operations;
  for (const [counting, key] of [['exact', 'spiking_pJ'], ['dense', 'dense_pJ']]) {
    const of = (model) => receipt.energy.find((e) => e.counting === counting && e.cost_model === model).picojoules;
    assert.ok(Math.abs(energy[key] / of('45nm-f32') - 1) < 1e-9 && Math.abs(energyWithMemory[key] / of('45nm-f32-sram') - 1) < 1e-9);
  }
  found[0].logits.forEach((l, i) => assert.ok(Math.abs(l - found[1].logits[i]) <= 1e-4));
});

test('calls may overlap', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn } = await import('/test-page/page.js');
    const model = await Spikeshade.load(builtIn, { device: 'cpu' });
    const x = new Float32Array(784);
    const calls = [model.classify(x), model.trace(x), model.trainStep(x, [3]), model.classify(x), model.save(), model.classify(x)];
    model.free();
    const [first, traced, , second, saved, third] = await Promise.all(calls);
    return { equal: String(first.logits) === String(traced.logits), second: [...second.logits], third: [...third.logits], saved: saved.length, first: [...first.logits] };
  });
  assert.ok(found.equal);
  assert.deepEqual(found.second, found.third);
  assert.notDeepEqual(found.first, found.second);
  assert.ok(found.saved > 670000);
});

test('calls leave nothing behind: the module\'s memory stays as large as one of each needs', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, picture } = await import('/test-page/page.js');
    const { default: init } = await import('/spikeshade/spikeshade_wasm.js');
    const bytes = new Uint8Array(await (await fetch(builtIn)).arrayBuffer());
    const five = await picture('/test-images/five.png');
    const question = { layer: 'head_lif', neuron: 3, timestep: 1 };
    const model = await Spikeshade.load(bytes, { device: 'cpu' });
    const { memory } = await init();
    const round = async () => {
      const { layers } = await model.trace(five);
      await model.classify(five);
      await model.why(five, question);
      return layers.length;
    };
    const others = async () => {
      const other = await Spikeshade.load(bytes, { device: 'cpu' });
      const trainer = await other.trainer();
      await trainer.step(new Float32Array(2 * 784), [1, 2]);
      await other.gradients(new Float32Array(784), [1]);
      await trainer.finish();
      other.free();
    };
    const sizes = [];
    for (let i = 0; i < 300; i += 1) {
      await round();
      if (i % 30 === 0) await others();
      if (i % 60 === 59) sizes.push(memory.buffer.byteLength);
    }
    return sizes;
  });
  console.log(`module memory after every 60 rounds: ${found.map((n) => `${(n / 2 ** 20).toFixed(1)} MiB`).join(', ')}`);
  assert.equal(found.at(-1), found[0], `${found}`);
  assert.ok(found[0] < 96 * 2 ** 20, `${found}`);
});

test('a lost device is told, and every call fails with its code', async () => {
  const found = await evaluate(
    async () => {
      const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
      const x = new Float32Array(784);
      const model = await Spikeshade.load(builtIn, { device: 'gpu' });
      await model.classify(x);
      const running = refused(() => model.classify(x));
      window.devices.at(-1).destroy();
      const { reason } = await model.lost;
      const later = await refused(() => model.trace(x));
      const training = await refused(() => model.trainStep(x, [1]));
      const again = await Spikeshade.load(builtIn, { device: 'gpu' });
      const { classes } = await again.classify(x);
      // Letting a model go is no loss.
      let told = false;
      again.lost.then(() => (told = true));
      again.free();
      await new Promise((resolve) => setTimeout(resolve, 200));
      return { reason, running: await running, later, training, classes: classes.length, told };
    },
    undefined,
    {
      setup: () => {
        window.devices = [];
        const request = GPUAdapter.prototype.requestDevice;
        GPUAdapter.prototype.requestDevice = async function (...args) {
          const device = await request.apply(this, args);
          window.devices.push(device);
          return device;
        };
      },
    },
  );
  assert.ok(found.reason.length > 0);
  for (const call of [found.running, found.later, found.training]) {
    assert.ok(call.typed, JSON.stringify(call));
    assert.equal(call.code, 'device-lost');
    assert.match(call.message, /load the model again/);
  }
  assert.equal(found.classes, 10);
  assert.equal(found.told, false);
});

test('a step that fails for want of memory loses nothing that was learned', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
    const model = await Spikeshade.load(builtIn, { device: 'gpu' });
    const two = new Float32Array(2 * 784).map((_, i) => (i % 7 === 0 ? 2 : 0));
    const trainer = await model.trainer({ learningRate: 0.003 });
    const losses = [];
    for (let i = 0; i < 4; i += 1) losses.push((await trainer.step(two, [3, 3])).loss);
    const pop = GPUDevice.prototype.popErrorScope;
    GPUDevice.prototype.popErrorScope = async function () {
      return (await pop.call(this)) ?? new GPUOutOfMemoryError('no memory');
    };
    const failed = await refused(() => trainer.step(two.subarray(0, 784), [3]));
    GPUDevice.prototype.popErrorScope = pop;
    const again = (await trainer.step(two, [3, 3])).loss;
    const other = (await trainer.step(two.subarray(0, 784), [3])).loss;
    const saved = new TextDecoder('latin1').decode(await model.save());
    model.free();
    return { losses, failed, again, other, told: saved.includes('test_correct') };
  });
  assert.equal(found.failed.code, 'out-of-memory', JSON.stringify(found.failed));
  assert.ok(found.losses.at(-1) < 0.8 * found.losses[0], `${found.losses}`);
  assert.ok(found.again < found.losses.at(-1) * 1.05, `${found.again} after ${found.losses}`);
  assert.ok(found.other < found.losses.at(-1) * 1.05, `${found.other} after ${found.losses}`);
  assert.equal(found.told, false, 'what the built-in model reached is not said of another');
});

test('a GPU that is not named is called the GPU', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
    const model = await Spikeshade.load(builtIn, { device: 'gpu' });
    const pop = GPUDevice.prototype.popErrorScope;
    GPUDevice.prototype.popErrorScope = async function () {
      return (await pop.call(this)) ?? new GPUOutOfMemoryError('no memory');
    };
    const failed = await refused(() => model.classify(new Float32Array(784)));
    GPUDevice.prototype.popErrorScope = pop;
    const { name } = model.adapterInfo();
    model.free();
    return { failed, name };
  });
  assert.equal(found.failed.code, 'out-of-memory');
  assert.match(found.failed.message, /^[^:]+: the GPU is out of memory; use a smaller batch, or `device: 'cpu'`$/);
  assert.match(found.name, /swiftshader/i);
});

test('where what a device is cannot be told, the model is let go', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
    const { Engine } = await import('/spikeshade/spikeshade_wasm.js');
    let freed = 0;
    const free = Engine.prototype.free;
    Engine.prototype.free = function () {
      freed += 1;
      free.call(this);
    };
    const request = GPU.prototype.requestAdapter;
    let asked = 0;
    // The module asks for its adapter first, the package for its name then.
    GPU.prototype.requestAdapter = function (...args) {
      asked += 1;
      return asked === 1 ? request.apply(this, args) : Promise.reject(new Error('gone'));
    };
    const failed = await refused(() => Spikeshade.load(builtIn, { device: 'gpu' }));
    return { failed, asked, freed };
  });
  assert.match(found.failed.message, /gone/);
  assert.deepEqual([found.asked, found.freed], [2, 1]);
});

test('a browser whose WebAssembly is too old is told as that', async () => {
  const load = async () => {
    const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
    return refused(() => Spikeshade.load(builtIn, { device: 'cpu' }));
  };
  const setup = (old) => {
    const refuse = () => Promise.reject(new WebAssembly.CompileError('invalid value type 0x7b'));
    for (const name of ['instantiate', 'instantiateStreaming', 'compile', 'compileStreaming']) WebAssembly[name] = refuse;
    if (old) WebAssembly.validate = () => false;
  };
  const old = await evaluate(load, undefined, { setup: `(${setup})(true)` });
  assert.deepEqual([old.typed, old.code], [true, 'unsupported']);
  assert.match(old.message, /Chrome.*Firefox.*Safari/);
  const none = await evaluate(load, undefined, { setup: () => delete globalThis.WebAssembly });
  assert.deepEqual([none.typed, none.code], [true, 'unsupported']);
  assert.match(none.message, /no WebAssembly/);
  // Where the browser is new enough, the file is the one that is wrong.
  const damaged = await evaluate(load, undefined, { setup: `(${setup})(false)` });
  assert.deepEqual([damaged.typed, damaged.code], [true, 'network']);
});

test('where the module ends, every open and later call is rejected', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
    const model = await Spikeshade.load(builtIn, { device: 'cpu' });
    const x = new Float32Array(784);
    const open = [1, 2].map(() => refused(() => model.classify(x)));
    // What the browser reports of a trap in a task of the module's.
    const error = Object.assign(new WebAssembly.RuntimeError('unreachable'), { stack: 'at spikeshade_wasm_bg.wasm' });
    const other = Object.assign(new WebAssembly.RuntimeError('unreachable'), { stack: 'at another.wasm' });
    await Promise.resolve();
    dispatchEvent(new ErrorEvent('error', { error: other }));
    const before = await refused(() => model.classify(x));
    const later = refused(() => model.trace(x));
    await Promise.resolve();
    dispatchEvent(new ErrorEvent('error', { error }));
    return { open: await Promise.all(open), before, later: await later, after: await refused(() => model.save()), load: await refused(() => Spikeshade.load(builtIn)) };
  });
  assert.deepEqual(found.open, ['nothing', 'nothing']);
  assert.equal(found.before, 'nothing');
  for (const call of [found.later, found.after, found.load]) {
    assert.equal(call.code, 'internal');
    assert.match(call.message, /unreachable.*reload the page/);
  }
});

test('a trap in a call ends the module, too', async () => {
  const found = await evaluate(async () => {
    const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
    const { Engine } = await import('/spikeshade/spikeshade_wasm.js');
    const model = await Spikeshade.load(builtIn, { device: 'cpu' });
    Engine.prototype.save = () => {
      throw new WebAssembly.RuntimeError('memory access out of bounds');
    };
    const open = refused(() => model.save());
    const behind = refused(() => model.classify(new Float32Array(784)));
    return [await open, await behind, await refused(() => Spikeshade.load(builtIn))];
  });
  for (const call of found) {
    assert.deepEqual([call.typed, call.code], [true, 'internal'], JSON.stringify(call));
    assert.match(call.message, /out of bounds.*reload the page/);
  }
});

const withoutWebGpu = async () => {
  const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
  const gpu = await refused(() => Spikeshade.load(builtIn, { device: 'gpu' }));
  const model = await Spikeshade.load(builtIn);
  const { logits } = await model.classify(new Float32Array(784));
  return { gpu, info: model.adapterInfo(), logits: [...logits] };
};

test('a page that is not secure is told as that', async () => {
  const port = new URL(server.origin).port;
  const other = await launch({ args: ['--host-resolver-rules=MAP spikeshade.test 127.0.0.1'] });
  const found = await onPage(other, `http://spikeshade.test:${port}`, (page) => page.evaluate(withoutWebGpu)).finally(() => other.close());
  assert.deepEqual([found.gpu.code, found.gpu.why, found.info.why], ['no-webgpu', 'insecure', 'insecure']);
  for (const told of [found.gpu.message, found.info.notice]) assert.match(told, /WebGPU needs https or localhost/);
  assert.equal(found.logits.length, 10);
});

test('without WebGPU the twins run, and `gpu` is refused', async () => {
  const hidden = await evaluate(withoutWebGpu, undefined, {
    setup: () => Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined }),
  });
  const other = await launch({ gpu: false });
  const off = await onPage(other, server.origin, (page) => page.evaluate(withoutWebGpu)).finally(() => other.close());
  for (const found of [hidden, off]) {
    assert.equal(found.gpu.code, 'no-webgpu');
    assert.match(found.gpu.message, /device: 'cpu'/);
    assert.equal(found.info.kind, 'cpu');
    assert.match(found.info.notice, /WebGPU/);
    assert.equal(found.logits.length, 10);
  }
  assert.deepEqual([hidden.gpu.why, hidden.info.why], ['no-webgpu', 'no-webgpu']);
  assert.deepEqual([off.gpu.why, off.info.why], ['no-adapter', 'no-adapter']);
  assert.deepEqual(hidden.logits, off.logits);
  const software = await evaluate(async () => {
    const { Spikeshade, builtIn } = await import('/test-page/page.js');
    const kinds = await Promise.all(['auto', 'gpu', 'cpu'].map(async (device) => (await Spikeshade.load(builtIn, { device })).adapterInfo()));
    return kinds.map(({ kind, why }) => [kind, why]);
  });
  assert.deepEqual(software, [['cpu', 'software'], ['webgpu', null], ['cpu', null]]);
});

test('every failure has a code and a remedy', async () => {
  const found = await evaluate(
    async () => {
      const { Spikeshade, SpikeshadeError, builtIn, refused } = await import('/test-page/page.js');
      const bytes = new Uint8Array(await (await fetch(builtIn)).arrayBuffer());
      const load = (source, options) => refused(() => Spikeshade.load(source, { device: 'cpu', ...options }));
      const model = await Spikeshade.load(bytes, { device: 'cpu' });
      const x = new Float32Array(784);
      const abort = new AbortController();
      const aborted = load(builtIn, { signal: abort.signal });
      abort.abort();
      const found = {
        'bad-model': [await load(bytes.slice(0, 5000)), await load(new TextEncoder().encode('no model at all')), await load(new ArrayBuffer(0))],
        network: [await load('/no-such-model.safetensors'), await load('http://localhost:1/m.safetensors')],
        'bad-input': [
          await load(bytes, { device: 'quantum' }),
          await refused(() => model.classify(new Float32Array(5))),
          await refused(() => model.classify(new Float32Array(784).fill(NaN))),
          await refused(() => model.classify('a picture')),
          await refused(() => model.classify([])),
          await refused(() => model.classify({ width: 3, height: 3, data: new Uint8ClampedArray(4) })),
          await refused(() => model.classify(x, { timesteps: 99 })),
          await refused(() => model.classify(new Float32Array(2 * 784), { sequence: 40 })),
          await refused(() => model.trainStep(x, [10])),
          await refused(() => model.trainStep(x, [1, 2])),
          await refused(() => model.trainStep(x, [0.5])),
          await refused(() => model.trainer({ learningrate: 1 })),
          await refused(() => model.trainer({ optimizer: 'adam' })),
          await refused(() => model.trainer({ learningRate: -1 })),
        ],
        training: [await refused(() => model.trainStep(x, [1], { learningRate: 1e30 }).then(() => model.trainStep(x, [1])))],
      };
      model.free();
      found['bad-input'].push(await refused(() => model.classify(x)));
      return { found, aborted: await aborted, constructor: (await refused(() => new Spikeshade())).name, is: SpikeshadeError.prototype instanceof Error };
    },
    undefined,
    { expected: /no-such-model|localhost:1\/|ERR_CONNECTION_REFUSED/ },
  );
  for (const [code, calls] of Object.entries(found.found)) {
    calls.forEach((call, i) => {
      const what = `${code} ${i}: ${JSON.stringify(call)}`;
      assert.ok(call.typed, what);
      assert.equal(call.code, code, what);
      assert.ok(call.message.length > 15 && !call.message.includes('--'), what);
    });
  }
  assert.equal(found.aborted.name, 'AbortError');
  assert.equal(found.constructor, 'TypeError');
  assert.ok(found.is);
});
