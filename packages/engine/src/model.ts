import { dirname } from 'node:path';
import { type Checkpoint, openCheckpoint, validateModelTensors } from '@qspec/checkpoint';
import type { KernelBackend, ModelConfig } from '@qspec/core';
import { createBackend, type DeviceChoice } from '@qspec/kernels';
import { Tokenizer } from '@qspec/tokenizer';
import { type WeightKind, weightKind } from './mode-check.js';
import { type LoadProgress, loadModel, type TensorProvider } from './model-loader.js';
import type { ResidentModel } from './resident-model.js';

/** Where a model comes from and where its weights go. */
export interface ModelOptions {
  /** Default `auto`: CUDA where this build and this machine have it, else the CPU. */
  device?: DeviceChoice;
  /** CPU threads. Default: physical cores. */
  numThreads?: number;
  /** Use this backend instead of making one; it stays the caller's. */
  backend?: KernelBackend;
  /** Folder of tokenizer.json, where it does not lie beside the weights. */
  tokenizer?: string | Tokenizer;
  onProgress?: (progress: LoadProgress) => void;
  /** Stops loading between two tensors; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** A model's weights on a device, with its tokenizer: what any number of `LLM`s may run, each in its own modes. */
export class Model implements AsyncDisposable {
  private isClosed = false;

  private constructor(
    readonly path: string,
    readonly config: ModelConfig,
    readonly resident: ResidentModel,
    readonly backend: KernelBackend,
    /** Absent when the checkpoint has none. */
    readonly tokenizer: Tokenizer | undefined,
    private readonly ownsBackend: boolean,
  ) {}

  /** Reads and repacks weights tensor by tensor; the event loop keeps running. Throws like `LLM.load`. */
  static async load(path: string, options: ModelOptions = {}): Promise<Model> {
    const checkpoint = await openCheckpoint(path);
    try {
      validateModelTensors(checkpoint);
      const { tokenizer: given, ...rest } = options;
      const tokenizer = await loadTokenizer(checkpoint, given);
      return await Model.fromTensors(checkpoint.config, checkpointTensors(checkpoint), {
        ...rest,
        path: checkpoint.path,
        ...(tokenizer ? { tokenizer } : {}),
      });
    } finally {
      await checkpoint.close();
    }
  }

  /** A model from any source of tensors: another file format, weights made on the fly. */
  static async fromTensors(
    config: ModelConfig,
    tensors: TensorProvider,
    options: Omit<ModelOptions, 'tokenizer'> & { path?: string; tokenizer?: Tokenizer },
  ): Promise<Model> {
    const { path = 'this model', tokenizer, onProgress, signal } = options;
    const backend = options.backend ?? (await makeBackend(options));
    try {
      const resident = await loadModel(backend, config, tensors, { onProgress, signal });
      return new Model(path, config, resident, backend, tokenizer, !options.backend);
    } catch (error) {
      if (!options.backend) backend.dispose();
      throw error;
    }
  }

  get weightKind(): WeightKind {
    return weightKind(this.resident);
  }

  /** Frees the weights. Close every `LLM` made from this model before. Idempotent. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    if (this.ownsBackend) this.backend.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A checkpoint as the loader wants it. */
export function checkpointTensors(checkpoint: Pick<Checkpoint, 'weightSource' | 'readFloat32'>): TensorProvider {
  return {
    weight: (name) => checkpoint.weightSource(name),
    vector: (name) => checkpoint.readFloat32(name),
  };
}

async function makeBackend(options: Pick<ModelOptions, 'device' | 'numThreads'>): Promise<KernelBackend> {
  const { device, numThreads } = options;
  const { backend } = await createBackend({
    ...(device === undefined ? {} : { device }),
    ...(numThreads === undefined ? {} : { numThreads }),
  });
  return backend;
}

async function loadTokenizer(
  checkpoint: Checkpoint,
  given: string | Tokenizer | undefined,
): Promise<Tokenizer | undefined> {
  if (given instanceof Tokenizer) return given;
  if (given !== undefined) return Tokenizer.fromFolder(given);
  const { tokenizer } = checkpoint.tokenizerFiles();
  return tokenizer === undefined ? undefined : Tokenizer.fromFolder(dirname(tokenizer));
}
