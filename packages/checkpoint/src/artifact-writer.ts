import type { DType, Int4WeightSource, Nested8WeightSource } from '@qspec/core';
import type { ArtifactFileSystem } from './artifact/file-system.js';

export type JsonObject = { readonly [key: string]: JsonValue };
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;

export interface ArtifactWriterOptions {
  /** Fields of the original `config.json` ({@link Checkpoint.rawConfig}); `quantization_config` is added. */
  readonly config: Readonly<Record<string, unknown>>;
  /** How it was made, for `qspec.json`. */
  readonly recipe: JsonObject;
  readonly calibration?: JsonObject;
  /** A shard is closed before it would grow past this. Default 2 GiB; a larger tensor gets a shard of its own. */
  readonly maxShardBytes?: number;
  /** Replace an artifact that is at the path already (at `commit`, never before). Default false. */
  readonly overwrite?: boolean;
  /** For tests. */
  readonly fileSystem?: ArtifactFileSystem;
}

export interface ArtifactSummary {
  readonly path: string;
  /** Of all files. */
  readonly totalBytes: number;
  readonly numTensors: number;
  readonly numShards: number;
}

/**
 * Writes an artifact into a temporary folder beside `path` and renames it into place at `commit`. Calls are made one after another.
 * Sources are borrowed until the promise settles. A failed call aborts the whole: nothing is left behind, later calls throw.
 *
 * @throws CheckpointError for disk errors (with what to do), ShapeMismatchError when arrays do not fit their shape,
 *   DisposedError after `commit` or `abort`.
 */
export interface ArtifactWriter extends AsyncDisposable {
  readonly path: string;
  /** `bytes`: little-endian elements, row-major. */
  addDense(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array): Promise<void>;
  /** `source.name` is the Hugging Face name, `X.weight`. */
  addInt4(source: Int4WeightSource): Promise<void>;
  addNested8(source: Nested8WeightSource): Promise<void>;
  /** Copies a file (tokeniser, template, licence) under its own name or `name`. */
  copyFile(from: string, name?: string): Promise<void>;
  /** Per-layer errors and the like, for `qspec.json`. May be called until `commit`; the last call counts. */
  setReport(report: JsonObject): void;
  /** Makes the artifact appear, whole. */
  commit(): Promise<ArtifactSummary>;
  /** Removes everything written. Synchronous, cheap and safe to call from an exit handler, and after `commit` (does nothing). */
  abort(): void;
}
