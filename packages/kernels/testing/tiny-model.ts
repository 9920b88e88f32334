import {
  bf16ToFloat,
  floatToBf16,
  type KernelBackend,
  type KvFormat,
  type Op,
  type Program,
  type Session,
  type WeightFormat,
  type WeightSource,
} from '@qspec/core';

/** A decoder small enough for the reference backend, with every op and odd sizes where the formats allow them. */
export const TINY = {
  vocabSize: 97,
  hiddenSize: 64,
  intermediateSize: 96,
  numLayers: 2,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 16,
  pageSize: 16,
  numPages: 24,
  maxRows: 160,
  maxLogitRows: 160,
} as const;

export type TinyFormat = 'dense' | 'int4' | 'nested8';

/** Deterministic numbers in [0, 1). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

const FORMATS: Readonly<Record<TinyFormat, WeightFormat>> = {
  dense: { kind: 'dense', dtype: 'bf16' },
  int4: { kind: 'int4', groupSize: 32, hadamardBlock: 0 },
  nested8: { kind: 'nested8', groupSize: 32, hadamardBlock: 32, radix: 12 },
};

export function randomWeight(name: string, n: number, k: number, format: WeightFormat, seed: number): WeightSource {
  const random = randomNumbers(seed);
  const words = () => Int32Array.from({ length: (n * k) / 8 }, () => (random() * 2 ** 32) | 0);
  const deviation = 1.5 / Math.sqrt(k);
  if (format.kind === 'dense') {
    const values = Uint16Array.from({ length: n * k }, () => floatToBf16((random() * 2 - 1) * deviation * 1.7));
    return { name, shape: [n, k], format, data: new Uint8Array(values.buffer) };
  }
  const scales = Uint16Array.from({ length: (n * k) / format.groupSize }, () =>
    floatToBf16((deviation / 4.6) * (0.7 + 0.6 * random())),
  );
  if (format.kind === 'int4') return { name, shape: [n, k], format, hi: words(), scales };
  return { name, shape: [n, k], format, hi: words(), lo: words(), scales };
}

export interface TinyModelOptions {
  /** Format of the matrices. Default `nested8`. The embedding is always dense float32. */
  readonly format?: TinyFormat;
  /** Embedding values that bfloat16 holds exactly: no backend can lose any of them. Default false. */
  readonly hasBf16Embedding?: boolean;
}

/** Target and draft programs over one set of weights. A dense model drafts with its own target program. */
export async function recordTinyModel(
  backend: KernelBackend,
  { format: kind = 'nested8', hasBf16Embedding = false }: TinyModelOptions = {},
): Promise<{ target: Program; draft: Program }> {
  const format = FORMATS[kind];
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, vocabSize } = TINY;
  const qkvWidth = (numHeads + 2 * numKvHeads) * headDim;
  const random = randomNumbers(7);
  const vector = (length: number, value: (i: number) => number) =>
    backend.createVector(Float32Array.from({ length }, (_, i) => value(i)));
  const norm = (length: number) => vector(length, () => 0.8 + 0.4 * random());
  let seed = 1;
  const weight = (name: string, n: number, k: number) =>
    backend.createWeight([randomWeight(name, n, k, format, seed++)]);
  const dense = { kind: 'dense', dtype: 'f32' } as const;
  const element = hasBf16Embedding ? (value: number) => bf16ToFloat(floatToBf16(value)) : (value: number) => value;
  const values = Float32Array.from({ length: vocabSize * hiddenSize }, () => element(random() * 2 - 1));
  const table = await backend.createWeight([
    { name: 'embedding', shape: [vocabSize, hiddenSize], format: dense, data: new Uint8Array(values.buffer) },
  ]);
  const recordLayer = async (layer: number) => ({
    attentionNorm: norm(hiddenSize),
    // Two parts of one format, stacked: what query and key/value are in a checkpoint.
    qkv: await backend.createWeight([
      randomWeight(`${layer}.q`, numHeads * headDim, hiddenSize, format, seed++),
      randomWeight(`${layer}.kv`, 2 * numKvHeads * headDim, hiddenSize, format, seed++),
    ]),
    bias: vector(qkvWidth, () => random() - 0.5),
    qNorm: norm(headDim),
    kNorm: norm(headDim),
    o: await weight(`${layer}.o`, hiddenSize, numHeads * headDim),
    mlpNorm: norm(hiddenSize),
    gateUp: await weight(`${layer}.gateUp`, 2 * intermediateSize, hiddenSize),
    down: await weight(`${layer}.down`, hiddenSize, intermediateSize),
  });
  const layers = [await recordLayer(0), await recordLayer(1)];
  const finalNorm = norm(hiddenSize);
  const inverseFrequencies = vector(headDim / 2, (i) => 10000 ** (-2 * (i / headDim)));
  const head = await weight('head', vocabSize, hiddenSize);

  const record = (isDraft: boolean): Program => {
    const isInteger = isDraft && kind !== 'dense';
    const plane = isInteger ? 'hi' : 'full';
    const hadamardBlock = format.kind === 'nested8' ? format.hadamardBlock : 0;
    const activation = (width: number) =>
      isInteger
        ? ({ kind: 'quantized', width, bits: 8, granularity: 'group', groupSize: 32 } as const)
        : ({ kind: 'float', width } as const);
    const buffers = [
      { kind: 'float', width: hiddenSize, wide: true },
      activation(hiddenSize),
      { kind: 'float', width: qkvWidth },
      activation(numHeads * headDim),
      { kind: 'float', width: hiddenSize },
      { kind: 'float', width: 2 * intermediateSize },
      activation(intermediateSize),
      { kind: 'float', width: hiddenSize },
      activation(hiddenSize),
      { kind: 'float', width: vocabSize },
    ] as const;
    const [residual, normed, qkv, attended, delta, gateUp, activated, last, headInput, logits] = [
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
    ];
    const heads = { numHeads, numKvHeads, headDim };
    const linear = { op: 'linear', plane, outputColumn: 0 } as const;
    const ops: Op[] = [{ op: 'embedding', table, output: residual! }];
    layers.forEach((layer, index) => {
      const before = index === 0 ? {} : { delta };
      ops.push(
        {
          op: 'rmsNorm',
          input: residual,
          ...before,
          weight: layer.attentionNorm,
          eps: 1e-5,
          output: normed,
          hadamardBlock,
        } as Op,
        { ...linear, weight: layer.qkv, input: normed, output: qkv, bias: layer.bias } as Op,
        {
          op: 'ropeKvWrite',
          qkv,
          layer: index,
          ...heads,
          inverseFrequencies,
          attentionFactor: 1,
          qNorm: layer.qNorm,
          kNorm: layer.kNorm,
          eps: 1e-6,
        } as Op,
        {
          op: 'attention',
          qkv,
          layer: index,
          ...heads,
          scale: headDim ** -0.5,
          slidingWindow: index === 1 ? 40 : 0,
          output: attended,
          hadamardBlock,
        } as Op,
        { ...linear, weight: layer.o, input: attended, output: delta } as Op,
        {
          op: 'rmsNorm',
          input: residual,
          delta,
          weight: layer.mlpNorm,
          eps: 1e-5,
          output: normed,
          hadamardBlock,
        } as Op,
        { ...linear, weight: layer.gateUp, input: normed, output: gateUp } as Op,
        { op: 'siluMul', input: gateUp, width: intermediateSize, output: activated, hadamardBlock } as Op,
        { ...linear, weight: layer.down, input: activated, output: delta } as Op,
      );
    });
    ops.push(
      { op: 'gatherRows', input: residual, output: last } as Op,
      { op: 'rmsNorm', input: last, weight: finalNorm, eps: 1e-5, output: headInput, hadamardBlock } as Op,
      { ...linear, weight: head, input: headInput, output: logits } as Op,
    );
    return { name: isDraft ? 'tiny draft' : 'tiny target', buffers, ops, logits: logits! };
  };
  return { target: record(false), draft: record(true) };
}

export async function openTinySession(
  backend: KernelBackend,
  options: TinyModelOptions & { readonly kvFormat?: KvFormat; readonly hasDraft?: boolean } = {},
): Promise<Session> {
  const { target, draft } = await recordTinyModel(backend, options);
  return backend.createSession({
    target,
    ...(options.hasDraft === false ? {} : { draft }),
    kv: {
      format: options.kvFormat ?? 'f32',
      numLayers: TINY.numLayers,
      numPages: TINY.numPages,
      pageSize: TINY.pageSize,
      numKvHeads: TINY.numKvHeads,
      headDim: TINY.headDim,
    },
    vocabSize: TINY.vocabSize,
    maxRows: TINY.maxRows,
    maxLogitRows: TINY.maxLogitRows,
  });
}

export function randomTokens(length: number, seed: number): Int32Array {
  const random = randomNumbers(seed);
  return Int32Array.from({ length }, () => Math.floor(random() * TINY.vocabSize));
}
