// Why a neuron fired: the package's answer beside the command's, and how the page shows it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { launch, onPage, program, repository, screenshots, serve } from './harness.js';

const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const image = path.join(repository, 'examples/images/five.png');

/** Of every kind of layer one neuron. */
const QUESTIONS = [
  ['patch_embed.proj_lif', 2600, 1],
  ['patch_embed.proj_lif1', 5000, 2],
  ['patch_embed.proj_lif3', 1500, 3],
  ['block.0.attn.shortcut_lif', 700, 4],
  ['block.0.attn.q_lif', 17, 2],
  ['block.1.attn.v_lif', 900, 3],
  ['block.0.attn.attn_lif', 1234, 4],
  ['block.1.mlp.fc1_lif', 77, 1],
  ['block.1.mlp.fc2_lif', 2048, 2],
  ['head_lif', 300, 4],
].map(([layer, neuron, timestep]) => ({ layer, neuron, timestep }));

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

/** The command's answer. */
function native({ layer, neuron, timestep }) {
  const args = ['profile', '--device', 'cpu', '--json', '--why', `${layer}:${neuron}:${timestep}`, image];
  return JSON.parse(execFileSync(program, args, { encoding: 'utf8' })).why;
}

test('the answer is that of the command line', async () => {
  const found = await onPage(browser, server.origin, (page) =>
    page.evaluate(async (questions) => {
      const { Spikeshade, builtIn, picture } = await import('/test-page/page.js');
      const five = await picture('/test-images/five.png');
      const all = {};
      for (const device of ['cpu', 'gpu']) {
        const model = await Spikeshade.load(builtIn, { device });
        all[device] = [];
        for (const question of questions) all[device].push(await model.why(five, question));
        if (device === 'cpu') {
          const { layer, timestep, place: [line, column, channel] } = all.cpu[4];
          all.placed = await model.why(await model.input(five), { layer, timestep, line, column, channel });
        }
        model.free();
      }
      return all;
    }, QUESTIONS));
  let fired = 0;
  QUESTIONS.forEach((question, i) => {
    const expected = native(question);
    // Numbers, words and order.
    assert.deepEqual(found.cpu[i], expected, JSON.stringify(question));
    assert.ok(Math.abs(expected.contributions.reduce((sum, { amount }) => sum + amount, 0) - expected.input) < 1e-9);
    found.gpu[i].path.forEach(({ h, spike }, t) => {
      assert.ok(Math.abs(h - expected.path[t].h) < 1e-4, `${question.layer} at ${t}: ${h}, not ${expected.path[t].h}`);
      assert.equal(spike, expected.path[t].spike);
    });
    fired += expected.path.filter(({ spike }) => spike !== 0).length;
  });
  assert.ok(fired > 3, `${fired} spikes`);
  assert.deepEqual(found.placed, found.cpu[4]);
});

test('a question that has no answer is refused in words', async () => {
  const found = await onPage(browser, server.origin, (page) =>
    page.evaluate(async () => {
      const { Spikeshade, builtIn, refused } = await import('/test-page/page.js');
      const model = await Spikeshade.load(builtIn, { device: 'cpu' });
      const x = new Float32Array(784);
      const asked = (question, values = x) => refused(() => model.why(values, question));
      const answers = [
        await asked({ layer: 'no_lif', neuron: 0, timestep: 1 }),
        await asked({ layer: 'head_lif', neuron: 1e9, timestep: 1 }),
        await asked({ layer: 'head_lif', line: 0, column: 99, channel: 0, timestep: 1 }),
        await asked({ layer: 'head_lif', neuron: 0, timestep: 9 }),
        await asked({ layer: 'head_lif', neuron: 0, timestep: 0 }),
        await asked({ layer: 'head_lif', timestep: 1 }),
        await asked({ layer: 'head_lif', neuron: 0, line: 1, column: 1, channel: 1, timestep: 1 }),
        await asked({ layer: 'head_lif', neuron: 0.5, timestep: 1 }),
        await asked(undefined),
        await asked({ layer: 'head_lif', neuron: 0, timestep: 1 }, new Float32Array(2 * 784)),
      ];
      model.free();
      return answers;
    }));
  for (const call of found) assert.deepEqual([call.typed, call.code], [true, 'bad-input'], JSON.stringify(call));
});

test('the page shows the path, the resets and the largest parts, for everyone', async () => {
  fs.mkdirSync(screenshots, { recursive: true });
  await onPage(browser, server.origin, async (page) => {
    await page.evaluate(async () => {
      document.documentElement.lang = 'en';
      for (const href of ['/style.css', '/why.css']) {
        const link = Object.assign(document.createElement('link'), { rel: 'stylesheet', href });
        document.head.append(link);
        await new Promise((resolve, reject) => Object.assign(link, { onload: resolve, onerror: reject }));
      }
      document.body.innerHTML = '<main><h1>Test</h1><h2>What fired</h2><section><h3>Why did it fire?</h3><div id="why"></div></section></main>';
      const { Why } = await import('/why.js');
      const { Engine } = await import('/engine.js');
      const { picture } = await import('/test-page/page.js');
      const engine = new Engine();
      await engine.call('load', null);
      const { input, layers } = await engine.call('trace', await picture('/test-images/five.png'));
      window.why = new Why(document.getElementById('why'), { name: (layer) => `“${layer}”` });
      /** Asks about a neuron of a layer that fired `sign`, at that timestep. */
      window.ask = async (name, sign) => {
        const { shape: [, , C, H, W], data } = layers.find((layer) => layer.name === name);
        const at = data.findIndex((v) => v === sign);
        const [t, c, n] = [Math.floor(at / (C * H * W)), Math.floor(at / (H * W)) % C, at % (H * W)];
        const question = { layer: name, timestep: t + 1, line: Math.floor(n / W), column: n % W, channel: c };
        const answer = await engine.call('why', input, question);
        window.why.show(answer);
        return answer;
      };
    });
    await page.evaluate(() => window.why.say('Choose a neuron.'));
    assert.equal(await page.locator('#why').textContent(), 'Choose a neuron.');
    for (const [layer, sign] of [['patch_embed.proj_lif', 1], ['block.0.attn.q_lif', 1], ['block.0.attn.v_lif', -1], ['head_lif', 0]]) {
      const answer = await page.evaluate(([layer, sign]) => window.ask(layer, sign), [layer, sign]);
      const now = answer.path[answer.timestep - 1];
      assert.equal(now.spike, sign);
      const said = await page.locator('#why .whysaid').textContent();
      assert.match(said, sign === 0 ? /stayed silent/ : sign > 0 ? / fired: / : /negative spike/);
      assert.ok((await page.locator('#why .whyhead').textContent()).startsWith(`“${layer}”, channel ${answer.place[2] + 1}, line ${answer.place[0] + 1}, column ${answer.place[1] + 1}`));
      const reached = said.match(/its membrane reached ([−\d.]+), the threshold is ([−\d.]+)\./).slice(1).map((each) => Number(each.replace('−', '-')));
      assert.ok(sign === 0 ? reached[0] < reached[1] : reached[0] * sign >= reached[1] * sign, said);
      assert.match(await page.locator('#why figcaption').textContent(), /The input x is divided by τ = 2/);
      const svg = page.locator('#why svg');
      const spikes = answer.path.filter(({ spike }) => spike !== 0);
      assert.equal(await svg.locator('.spike').count(), spikes.length);
      assert.equal(await svg.locator('.spike.negative').count(), spikes.filter(({ spike }) => spike < 0).length);
      assert.equal(await svg.locator('.reset').count(), spikes.length);
      assert.equal(await svg.locator('.threshold').count(), answer.ternary ? 2 : 1);
      const label = await svg.getAttribute('aria-label');
      assert.equal(label.match(/timestep \d/g).length, answer.path.length);
      assert.match(label, /^The membrane\. Threshold/);
      const active = answer.contributions.filter(({ amount }) => amount !== 0);
      const bars = page.locator('#why .whyparts li');
      assert.equal(await bars.count(), Math.min(active.length, 9));
      const [first] = await bars.locator('b').allTextContents();
      assert.ok(Math.abs(Number(first.replace('−', '-')) - active[0].amount) < 0.06 * Math.abs(active[0].amount) + 1e-3, first);
      // A negative part points to the left.
      const signs = await bars.locator('i').evaluateAll((fills) => fills.slice(0, 8).map((fill) => !fill.classList.contains('lowers')));
      assert.deepEqual(signs, active.slice(0, 8).map(({ amount }) => amount > 0));
      for (const theme of ['light', 'dark']) {
        await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
        const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).join('; ')}`);
        assert.deepEqual(told, []);
        await page.screenshot({ path: path.join(screenshots, `why-${layer}-${theme}.png`) });
      }
      await page.setViewportSize({ width: 390, height: 844 });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'wider than a phone');
      await page.setViewportSize({ width: 1280, height: 800 });
    }
  });
});
