import type { StoredDType } from '../../checkpoint.js';
import { type BlockCodec, q4_0, q4_1, q6_K, q8_0 } from './block-codecs.js';

/** How the elements of one GGUF tensor are stored. */
export interface GgmlType {
  readonly dtype: StoredDType;
  /** llama.cpp's name, for messages. */
  readonly label: string;
  /** Elements in a block. */
  readonly blockLength: number;
  readonly blockBytes: number;
  /** Absent for plain floats. */
  readonly codec?: BlockCodec;
}

const float = (dtype: 'f32' | 'f16' | 'bf16', blockBytes: number): GgmlType => ({
  dtype,
  label: dtype.toUpperCase(),
  blockLength: 1,
  blockBytes,
});
const block = (dtype: StoredDType, label: string, codec: BlockCodec): GgmlType => ({ dtype, label, ...codec, codec });

/** The types that can be read, by their number in the file. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map([
  [0, float('f32', 4)],
  [1, float('f16', 2)],
  [2, block('q4_0', 'Q4_0', q4_0)],
  [3, block('q4_1', 'Q4_1', q4_1)],
  [8, block('q8_0', 'Q8_0', q8_0)],
  [14, block('q6_K', 'Q6_K', q6_K)],
  [30, float('bf16', 2)],
]);

const OTHER_NAMES: ReadonlyMap<number, string> = new Map([
  [6, 'Q5_0'],
  [7, 'Q5_1'],
  [9, 'Q8_1'],
  [10, 'Q2_K'],
  [11, 'Q3_K'],
  [12, 'Q4_K'],
  [13, 'Q5_K'],
  [15, 'Q8_K'],
  [20, 'IQ4_NL'],
  [23, 'IQ4_XS'],
  [39, 'MXFP4'],
]);

export function ggmlTypeLabel(type: number): string {
  return GGML_TYPES.get(type)?.label ?? OTHER_NAMES.get(type) ?? `type ${type}`;
}
