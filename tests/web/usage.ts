// Never run: the compiler checks the package's types on it.

import { Spikeshade, SpikeshadeError, type Classification, type ErrorCode } from 'spikeshade';

export async function use(canvas: HTMLCanvasElement, signal: AbortSignal): Promise<ErrorCode | undefined> {
  const model = await Spikeshade.load(new URL('m.safetensors', location.href), {
    device: 'auto',
    signal,
    onProgress: (loaded, total, stage) => console.log(stage === 'model' && total !== null ? loaded / total : loaded),
  });
  const picture = canvas.getContext('2d')!.getImageData(0, 0, 28, 28);
  const { classes, logits, firingRate }: Classification = await model.classify(picture, { invert: true });
  const first: [string, number, number] = [classes[0]!.name, logits[0]!, firingRate];
  const given: Float32Array = await model.input([picture, picture], { invert: false });
  const trace = await model.trace(given, { timesteps: 8 });
  for (const { kind, data, shape, ratePerTimestep } of trace.layers) {
    const values: Float32Array | Int8Array = data;
    console.log(first, kind === 'real' ? values.length : ratePerTimestep?.[0], shape[4]);
  }
  console.log(trace.operations.energy.spiking_pJ, trace.attention[0]!.map.length, model.config.class_names?.[0]);
  const { path, contributions, ternary } = await model.why(picture, { layer: 'head_lif', line: 0, column: 1, channel: 2, timestep: 1 });
  const fired: -1 | 0 | 1 = path[0]!.spike;
  console.log(fired, ternary, contributions[0]?.place?.[2], (await model.why(given, { layer: 'head_lif', neuron: 3, timestep: 1 })).note);
  const trainer = await model.trainer({ optimizer: { kind: 'sgd', momentum: 0.9 }, addClasses: ['star'] });
  const { loss } = await trainer.step([picture], new Uint8Array([10]), { learningRate: loss0(trace.logits) });
  console.log(loss, (await trainer.finish()) === model);
  const gradient = await model.gradients(new Float32Array(784), [1], { statistics: 'batch' });
  console.log(gradient.gradients.get('head.weight')?.shape);
  new Blob([await model.save()]);
  using other = await Spikeshade.load(await model.save());
  console.log(other.config.arch);
  model.lost.then(({ reason }) => console.log(reason, model.adapterInfo().notice));
  try {
    await model.trainStep(new Float32Array(784), [1]);
  } catch (e) {
    if (e instanceof SpikeshadeError) return e.code;
    throw e;
  } finally {
    model.free();
  }
  // @ts-expect-error A model is made by `load`.
  new Spikeshade();
  // @ts-expect-error A neuron is missing.
  await model.why(picture, { layer: 'head_lif', timestep: 1 });
  // @ts-expect-error No such device.
  await Spikeshade.load('m', { device: 'tpu' });
  return undefined;
}

const loss0 = (logits: Float32Array): number => 1e-3 / logits.length;
