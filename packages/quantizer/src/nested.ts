import { bf16ToFloat, type Int4Format, type Nested8Format } from '@qspec/core';
import { roundResidual } from './rounding/codes.js';
import type { RoundedRows } from './rounding/rounding.js';

/** Smallest and largest radix: below 8 `lo` would overlap too much to be worth its bits, above 15 codes leave int8. */
export const MIN_RADIX = 8;
export const MAX_RADIX = 15;

/** How far beyond its 4-bit codes a format still reaches a weight to half its finest step; what a rounding is told as `maxClip`. */
export function maxClipOf(format: Int4Format | Nested8Format): number {
  return format.kind === 'nested8' ? 7.5 / format.radix : Number.POSITIVE_INFINITY;
}

/**
 * The low plane of a nested W8: what `hi` leaves over, in steps of scale / radix.
 * lo = clamp(round((w / scale - hi)·radix), -8, 7), ties to even; the 8-bit code radix·hi + lo lies in [-8·radix - 8, 7·radix + 7], which
 * for every radix up to 15 is within int8. `hi` and the scales are not touched: without `lo` they are the very same W4 weight.
 *
 * @param weights [numRows, numColumns], the weights that were rounded.
 * @returns [numRows, numColumns], each in [-8, 7].
 */
export function residualCodes(
  weights: Float32Array,
  rounded: RoundedRows,
  groupSize: number,
  radix: number,
): Int8Array {
  const lo = new Int8Array(weights.length);
  for (let group = 0; group < rounded.scales.length; group++) {
    const scale = bf16ToFloat(rounded.scales[group]!);
    roundResidual(weights, rounded.hi, group * groupSize, groupSize, scale, radix, lo);
  }
  return lo;
}
