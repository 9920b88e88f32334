import { CheckpointError, ConfigError, DisposedError, type ModelConfig, type WeightSource } from '@qspec/core';
import type { Checkpoint, CheckpointKind, TensorInfo, TokenizerFiles } from './checkpoint.js';
import type { UnknownFields } from './json.js';
import { rowsOf, type StoredTensor } from './stored-tensor.js';

export interface FileCheckpointParts {
  readonly kind: CheckpointKind;
  readonly path: string;
  readonly config: ModelConfig;
  readonly rawConfig: UnknownFields;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly tokenizerFiles: TokenizerFiles;
  readonly manifest?: UnknownFields;
  readonly closeFiles: () => Promise<void>;
}

/** The uniform view over what a format's opener found. */
export class FileCheckpoint implements Checkpoint {
  readonly kind: CheckpointKind;
  readonly path: string;
  readonly config: ModelConfig;
  readonly rawConfig: UnknownFields;
  readonly tensorNames: readonly string[];
  readonly manifest?: UnknownFields;
  private readonly tensors: ReadonlyMap<string, StoredTensor>;
  private isClosed = false;

  constructor(private readonly parts: FileCheckpointParts) {
    this.kind = parts.kind;
    this.path = parts.path;
    this.config = parts.config;
    this.rawConfig = parts.rawConfig;
    if (parts.manifest) this.manifest = parts.manifest;
    const tensors = new Map(parts.tensors);
    if (parts.config.tieWordEmbeddings) tensors.delete('lm_head.weight'); // some exporters store the shared matrix twice
    this.tensors = tensors;
    this.tensorNames = [...tensors.keys()].sort();
  }

  hasTensor(name: string): boolean {
    return this.tensors.has(name);
  }

  tensorInfo(name: string): TensorInfo {
    return this.find(name).info;
  }

  async readFloat32(name: string): Promise<Float32Array> {
    const tensor = this.openTensor(name);
    return tensor.readRows(0, rowsOf(tensor.info.shape).numRows);
  }

  async readRowsFloat32(name: string, begin: number, end: number): Promise<Float32Array> {
    const tensor = this.openTensor(name);
    const { numRows } = rowsOf(tensor.info.shape);
    if (!Number.isInteger(begin) || !Number.isInteger(end) || begin < 0 || begin > end || end > numRows) {
      throw new ConfigError(
        `Expected rows [begin, end) of \`${name}\` to lie in [0, ${numRows}) but received [${begin}, ${end}).`,
        { tensor: name, begin, end, numRows },
      );
    }
    return tensor.readRows(begin, end);
  }

  async weightSource(name: string): Promise<WeightSource> {
    return this.openTensor(name).readSource();
  }

  tokenizerFiles(): TokenizerFiles {
    return this.parts.tokenizerFiles;
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    await this.parts.closeFiles();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private openTensor(name: string): StoredTensor {
    if (this.isClosed) {
      throw new DisposedError(`Expected the checkpoint \`${this.path}\` to be open but it was closed.`, {
        path: this.path,
      });
    }
    return this.find(name);
  }

  private find(name: string): StoredTensor {
    const tensor = this.tensors.get(name);
    if (tensor) return tensor;
    throw new CheckpointError(
      `Expected tensor \`${name}\` in \`${this.path}\` but it is missing. The checkpoint is incomplete, or its config.json describes another model.`,
      { tensor: name, path: this.path },
    );
  }
}
