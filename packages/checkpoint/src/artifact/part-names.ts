import { type DType, UnsupportedFormatError } from '@qspec/core';

/** One stored tensor of a quantised matrix `X.weight`. */
export interface StoredPart {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export interface QuantizedParts {
  /** [N, K/8] words: 8 codes along K, low nibble first, value + 8. */
  readonly packed: StoredPart;
  /** Packed likewise; nested8 only. */
  readonly lo?: StoredPart;
  /** [N, K/groupSize] */
  readonly scale: StoredPart;
  /** The two numbers N, K. */
  readonly shape: StoredPart;
}

/** Names, element types and shapes as compressed-tensors' `pack-quantized` has them, and the `lo` plane beside. */
export function quantizedParts(
  name: string,
  [numRows, numColumns]: readonly [number, number],
  groupSize: number,
  isNested: boolean,
): QuantizedParts {
  if (!name.endsWith('.weight')) {
    throw new UnsupportedFormatError(
      `Expected a quantised tensor to have a name that ends in \`.weight\` but received \`${name}\`.`,
      { tensor: name },
    );
  }
  const words = [numRows, numColumns / 8];
  return {
    packed: { name: `${name}_packed`, dtype: 'i32', shape: words },
    ...(isNested && { lo: { name: `${name}_lo_packed`, dtype: 'i32' as const, shape: words } }),
    scale: { name: `${name}_scale`, dtype: 'bf16', shape: [numRows, numColumns / groupSize] },
    shape: { name: `${name}_shape`, dtype: 'i64', shape: [2] },
  };
}

export function listParts(parts: QuantizedParts): readonly StoredPart[] {
  return [parts.packed, ...(parts.lo ? [parts.lo] : []), parts.scale, parts.shape];
}
