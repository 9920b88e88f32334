import type { DenseFormat, Int4Format, Nested8Format } from './weight-format.js';

/**
 * One weight matrix in *storage* layout, [N, K] row-major, as `checkpoint` hands it to a backend or to the quantizer.
 * The arrays are borrowed: a backend copies (repacks) what it keeps.
 */
export type WeightSource = DenseWeightSource | Int4WeightSource | Nested8WeightSource;

interface WeightSourceBase {
  /** Name in the checkpoint, for error messages. */
  readonly name: string;
  /** [N, K]: output features, input features. */
  readonly shape: readonly [number, number];
}

export interface DenseWeightSource extends WeightSourceBase {
  readonly format: DenseFormat;
  /** Little-endian elements of `format.dtype`, N·K of them. */
  readonly data: Uint8Array;
}

/** Codes as compressed-tensors `pack-quantized` stores them: 8 a word along K, low nibble first, value + 8. */
export interface Int4WeightSource extends WeightSourceBase {
  readonly format: Int4Format;
  /** [N, K/8] words. */
  readonly hi: Int32Array;
  /** [N, K/groupSize] bfloat16 bits. */
  readonly scales: Uint16Array;
}

export interface Nested8WeightSource extends WeightSourceBase {
  readonly format: Nested8Format;
  readonly hi: Int32Array;
  /** [N, K/8] words, packed like `hi`. */
  readonly lo: Int32Array;
  readonly scales: Uint16Array;
}
