/**
 * What the numbers of a weight matrix mean. Layout (how they lie in a file or in memory) is a different thing and
 * belongs to `checkpoint` (storage) and `kernels` (resident tiles).
 */
export type WeightFormat = DenseFormat | Int4Format | Nested8Format;

/** Floating-point elements, taken as they are. */
export interface DenseFormat {
  readonly kind: 'dense';
  readonly dtype: 'f32' | 'f16' | 'bf16';
}

/** Group sizes along K that every kernel supports. */
export const GROUP_SIZES = [32, 64, 128] as const;
export type GroupSize = (typeof GROUP_SIZES)[number];

/** `w = scale · hi`, `hi` in [-8, 7], one bfloat16 scale for `groupSize` consecutive elements along K. */
export interface Int4Format {
  readonly kind: 'int4';
  readonly groupSize: GroupSize;
  /** Block of the Hadamard matrix that inputs are multiplied by before they meet this weight; 0 = none. */
  readonly hadamardBlock: number;
}

/**
 * `w = scale / radix · (radix · hi + lo)`, `hi` and `lo` in [-8, 7], `radix` in [8, 15], codes within int8.
 * The `hi` plane with `scale` is a valid {@link Int4Format} weight of its own: what draft mode reads.
 */
export interface Nested8Format {
  readonly kind: 'nested8';
  readonly groupSize: GroupSize;
  readonly hadamardBlock: number;
  readonly radix: number;
}

/** Which planes of a weight an op reads: `hi` is the 4-bit part alone, `full` everything there is. */
export type WeightPlane = 'full' | 'hi';

export function isQuantized(format: WeightFormat): format is Int4Format | Nested8Format {
  return format.kind !== 'dense';
}

/** Hadamard block that inputs of this weight need; 0 when they are taken as they are. */
export function inputHadamardBlock(format: WeightFormat): number {
  return isQuantized(format) ? format.hadamardBlock : 0;
}

/** Resident bytes of an [N, K] weight as read by one pass over `plane` (codes and scales, no padding). */
export function weightBytes(format: WeightFormat, numRows: number, numColumns: number, plane: WeightPlane): number {
  const elements = numRows * numColumns;
  if (format.kind === 'dense') return elements * (format.dtype === 'f32' ? 4 : 2);
  const scaleBytes = (elements / format.groupSize) * 2;
  const planes = format.kind === 'nested8' && plane === 'full' ? 2 : 1;
  return (elements / 2) * planes + scaleBytes;
}

export function sameFormat(a: WeightFormat, b: WeightFormat): boolean {
  if (a.kind === 'dense' || b.kind === 'dense')
    return a.kind === b.kind && 'dtype' in a && 'dtype' in b && a.dtype === b.dtype;
  return (
    a.kind === b.kind &&
    a.groupSize === b.groupSize &&
    a.hadamardBlock === b.hadamardBlock &&
    (a.kind !== 'nested8' || b.kind !== 'nested8' || a.radix === b.radix)
  );
}
