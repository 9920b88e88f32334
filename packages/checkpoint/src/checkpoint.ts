import type { DType, ModelConfig, WeightFormat, WeightSource } from '@qspec/core';

export type CheckpointKind = 'hugging-face' | 'gguf' | 'artifact';

/** What a tensor is, known without reading it. */
export interface TensorInfo {
  /** Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** Row-major; a matrix is [N, K]. */
  readonly shape: readonly number[];
  /** How it is stored: an element type, a GGUF block type, or `int4` / `nested8` in one of our artifacts. */
  readonly dtype: StoredDType;
  /** The format that {@link Checkpoint.weightSource} hands out; undefined when the tensor is no [N, K] matrix of floats. */
  readonly format?: WeightFormat;
  /** Bytes in the file, scales and planes included. */
  readonly storedBytes: number;
  /** File that holds it (the first one, when planes lie in several). */
  readonly file: string;
}

export type StoredDType = DType | GgmlTypeName | 'int4' | 'nested8';

/** GGUF block types by llama.cpp's names; any other type shows as `ggml:<number>`. */
export type GgmlTypeName = 'q8_0' | 'q4_0' | 'q4_1' | 'q6_K' | `ggml:${string}`;

/** Absolute paths of the files beside the weights that a tokeniser or a copy of the model needs; only those that exist. */
export interface TokenizerFiles {
  readonly tokenizer?: string;
  readonly tokenizerConfig?: string;
  readonly chatTemplate?: string;
  readonly generationConfig?: string;
  readonly specialTokensMap?: string;
}

/**
 * One model on disk under Hugging Face tensor names, whatever its format. Nothing is kept in memory but names and offsets:
 * each read opens a byte range, converts it in pieces and never blocks the event loop for long. Reads may run concurrently.
 *
 * Every read throws CheckpointError (missing tensor, truncated file, checksum that does not match) or
 * UnsupportedFormatError (an element type that cannot be converted), naming tensor and file.
 */
export interface Checkpoint extends AsyncDisposable {
  readonly kind: CheckpointKind;
  /** As given, made absolute. */
  readonly path: string;
  readonly config: ModelConfig;
  /** The fields of `config.json` (for a GGUF without one: the same fields, made from its metadata). */
  readonly rawConfig: Readonly<Record<string, unknown>>;
  /** Sorted. `lm_head.weight` is missing when it is tied. A quantised matrix is one name (`X.weight`), whatever it is stored as. */
  readonly tensorNames: readonly string[];
  /** `qspec.json` of an artifact; undefined for other kinds. */
  readonly manifest?: Readonly<Record<string, unknown>>;

  hasTensor(name: string): boolean;
  tensorInfo(name: string): TensorInfo;
  /**
   * All elements, row-major. Quantised tensors are dequantised in full (both planes); a rotated one stays rotated.
   * @returns an array that the caller owns.
   */
  readFloat32(name: string): Promise<Float32Array>;
  /** Rows [begin, end) of a matrix (elements, for a vector), as {@link readFloat32} would give them. */
  readRowsFloat32(name: string, begin: number, end: number): Promise<Float32Array>;
  /** The matrix as it is stored where a backend takes it so (f32, f16, bf16, int4, nested8); GGUF blocks become dense f32. */
  weightSource(name: string): Promise<WeightSource>;
  tokenizerFiles(): TokenizerFiles;
  /** Idempotent. Reads after it throw DisposedError. */
  close(): Promise<void>;
}
