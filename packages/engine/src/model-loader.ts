import {
  type KernelBackend,
  type ModelConfig,
  ShapeMismatchError,
  sameFormat,
  type VectorHandle,
  type WeightSource,
} from '@qspec/core';
import { findArchitecture, type LayerTensors, type LinearTensors } from './architectures/index.js';
import type { ResidentLayer, ResidentLinear, ResidentModel } from './resident-model.js';
import { ropeTable } from './rope.js';

/** Where tensors come from: a `Checkpoint`, or anything that can answer for its names. */
export interface TensorProvider {
  /** A matrix in storage layout. @throws CheckpointError when it is missing or damaged. */
  weight(name: string): Promise<WeightSource>;
  /** A vector, widened to float32. @throws CheckpointError when it is missing or damaged. */
  vector(name: string): Promise<Float32Array>;
}

export interface LoadProgress {
  readonly numLoaded: number;
  readonly numTotal: number;
  /** The tensor that was loaded last. */
  readonly name: string;
}

export interface LoadModelOptions {
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Brings a model's weights to `backend`, one matrix (or one fused group) at a time, giving the event loop its turn in between.
 * On failure the handles made so far stay with the backend until it is disposed.
 * @throws CheckpointError, ShapeMismatchError, OutOfMemoryError, UnsupportedFormatError
 */
export async function loadModel(
  backend: KernelBackend,
  config: ModelConfig,
  tensors: TensorProvider,
  options: LoadModelOptions = {},
): Promise<ResidentModel> {
  return new ModelLoader(backend, config, tensors, options).load();
}

class ModelLoader {
  private numLoaded = 0;
  private numTotal = 0;

  constructor(
    private readonly backend: KernelBackend,
    private readonly config: ModelConfig,
    private readonly tensors: TensorProvider,
    private readonly options: LoadModelOptions,
  ) {}

  async load(): Promise<ResidentModel> {
    const { config } = this;
    const names = findArchitecture(config.architecture).tensors(config);
    const matrix = [config.vocabSize, config.hiddenSize] as const;
    const isTied = names.head === names.embedding;
    this.numTotal = names.layers.length * 9 + (isTied ? 2 : 3);
    const embedding = await this.linear([{ weight: names.embedding, shape: matrix }]);
    const layers: ResidentLayer[] = [];
    for (const layer of names.layers) layers.push(await this.layer(layer));
    const finalNorm = await this.vector(names.finalNorm, config.hiddenSize);
    const head = isTied ? embedding : await this.linear([{ weight: names.head, shape: matrix }]);
    const { inverseFrequencies, attentionFactor } = ropeTable(config);
    return {
      config,
      embedding: embedding[0]!.weight,
      layers,
      finalNorm,
      head: head[0]!,
      inverseFrequencies: this.backend.createVector(inverseFrequencies),
      ropeAttentionFactor: attentionFactor,
    };
  }

  private async layer(names: LayerTensors): Promise<ResidentLayer> {
    const { hiddenSize, headDim } = this.config;
    return {
      attentionNorm: await this.vector(names.attentionNorm, hiddenSize),
      qkv: await this.linear([names.q, names.k, names.v]),
      ...(names.qNorm ? { qNorm: await this.vector(names.qNorm, headDim, false) } : {}),
      ...(names.kNorm ? { kNorm: await this.vector(names.kNorm, headDim, false) } : {}),
      o: (await this.linear([names.o]))[0]!,
      mlpNorm: await this.vector(names.mlpNorm, hiddenSize),
      gateUp: await this.linear([names.gate, names.up]),
      down: (await this.linear([names.down]))[0]!,
      slidingWindow: names.slidingWindow,
    };
  }

  /** Neighbours of equal format become one weight, so that one pass serves them all. */
  private async linear(parts: readonly LinearTensors[]): Promise<ResidentLinear[]> {
    const sources: WeightSource[] = [];
    for (const part of parts) sources.push(await this.source(part));
    const linears: ResidentLinear[] = [];
    let outputColumn = 0;
    for (let first = 0; first < parts.length; ) {
      let end = first + 1;
      while (end < parts.length && sameFormat(sources[first]!.format, sources[end]!.format)) end++;
      const group = sources.slice(first, end);
      const weight = await this.backend.createWeight(group);
      const bias = await this.bias(parts.slice(first, end));
      linears.push({ weight, format: group[0]!.format, outputColumn, ...(bias ? { bias } : {}) });
      for (const source of group) outputColumn += source.shape[0];
      first = end;
    }
    return linears;
  }

  private async source(part: LinearTensors): Promise<WeightSource> {
    const source = await this.tensors.weight(part.weight);
    expectShape(part.weight, source.shape, part.shape);
    await this.step(part.weight);
    return source;
  }

  /** One vector over all parts; parts without a bias add zero. */
  private async bias(parts: readonly LinearTensors[]): Promise<VectorHandle | undefined> {
    if (!parts.some((part) => part.bias)) return undefined;
    const values = new Float32Array(parts.reduce((sum, part) => sum + part.shape[0], 0));
    let start = 0;
    for (const { bias, shape } of parts) {
      if (bias) {
        const part = await this.tensors.vector(bias);
        expectShape(bias, [part.length], [shape[0]]);
        values.set(part, start);
      }
      start += shape[0];
    }
    return this.backend.createVector(values);
  }

  private async vector(name: string, length: number, isCounted = true): Promise<VectorHandle> {
    const values = await this.tensors.vector(name);
    expectShape(name, [values.length], [length]);
    if (isCounted) await this.step(name);
    return this.backend.createVector(values);
  }

  private async step(name: string): Promise<void> {
    this.numLoaded += 1;
    this.options.onProgress?.({ numLoaded: this.numLoaded, numTotal: this.numTotal, name });
    await new Promise((resolve) => setImmediate(resolve));
    this.options.signal?.throwIfAborted();
  }
}

function expectShape(name: string, received: readonly number[], expected: readonly number[]): void {
  if (received.length === expected.length && received.every((size, i) => size === expected[i])) return;
  throw new ShapeMismatchError(
    `Expected \`${name}\` to have shape [${expected.join(', ')}] but received [${received.join(', ')}]. ` +
      'Is config.json from the same checkpoint?',
    { tensor: name, expected, received },
  );
}
