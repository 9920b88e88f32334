import { bf16ToFloat, type Int4Format, type Nested8Format } from '@qspec/core';
import type { RoundedRows } from './rounding/rounding.js';

/** Sums over some rows of a matrix, from which the report's figures are made. They add up, in a fixed order, over rows and layers. */
export interface ErrorSums {
  numWeights: number;
  numGroups: number;
  /** Σ w² */
  sumOfSquares: number;
  /** Σ (w - scale·hi)² */
  hiSquaredError: number;
  /** Σ (w - value of hi and lo)²; equals `hiSquaredError` where there is no `lo`. */
  fullSquaredError: number;
  hiMaxAbsError: number;
  fullMaxAbsError: number;
  /** Weights that lie more than half a step outside what their group's 4-bit codes reach. */
  numClippedWeights: number;
  /** Groups with such a weight. */
  numClippedGroups: number;
}

export function emptyErrorSums(): ErrorSums {
  return {
    numWeights: 0,
    numGroups: 0,
    sumOfSquares: 0,
    hiSquaredError: 0,
    fullSquaredError: 0,
    hiMaxAbsError: 0,
    fullMaxAbsError: 0,
    numClippedWeights: 0,
    numClippedGroups: 0,
  };
}

export function addErrorSums(total: ErrorSums, part: ErrorSums): void {
  total.numWeights += part.numWeights;
  total.numGroups += part.numGroups;
  total.sumOfSquares += part.sumOfSquares;
  total.hiSquaredError += part.hiSquaredError;
  total.fullSquaredError += part.fullSquaredError;
  total.hiMaxAbsError = Math.max(total.hiMaxAbsError, part.hiMaxAbsError);
  total.fullMaxAbsError = Math.max(total.fullMaxAbsError, part.fullMaxAbsError);
  total.numClippedWeights += part.numClippedWeights;
  total.numClippedGroups += part.numClippedGroups;
}

/** Compares `weights` with what the codes stand for, in the basis they are stored in. */
export function measureError(
  weights: Float32Array,
  rounded: RoundedRows,
  lo: Int8Array | undefined,
  format: Int4Format | Nested8Format,
): ErrorSums {
  const sums = emptyErrorSums();
  sums.numWeights = weights.length;
  sums.numGroups = rounded.scales.length;
  const loStep = format.kind === 'nested8' ? 1 / format.radix : 0;
  for (let group = 0; group < rounded.scales.length; group++) {
    const scale = bf16ToFloat(rounded.scales[group]!);
    addGroupError(sums, weights, rounded.hi, lo, group * format.groupSize, format.groupSize, scale, scale * loStep);
  }
  return sums;
}

function addGroupError(
  sums: ErrorSums,
  weights: Float32Array,
  hi: Int8Array,
  lo: Int8Array | undefined,
  offset: number,
  length: number,
  scale: number,
  loScale: number,
): void {
  let sumOfSquares = 0;
  let hiSquared = 0;
  let fullSquared = 0;
  let hiMax = 0;
  let fullMax = 0;
  let numClipped = 0;
  for (let i = offset; i < offset + length; i++) {
    const w = weights[i]!;
    const hiError = Math.abs(w - scale * hi[i]!);
    const fullError = lo ? Math.abs(w - scale * hi[i]! - loScale * lo[i]!) : hiError;
    sumOfSquares += w * w;
    hiSquared += hiError * hiError;
    fullSquared += fullError * fullError;
    if (hiError > hiMax) hiMax = hiError;
    if (fullError > fullMax) fullMax = fullError;
    if (w > 7.5 * scale || w < -8.5 * scale) numClipped++;
  }
  sums.sumOfSquares += sumOfSquares;
  sums.hiSquaredError += hiSquared;
  sums.fullSquaredError += fullSquared;
  if (hiMax > sums.hiMaxAbsError) sums.hiMaxAbsError = hiMax;
  if (fullMax > sums.fullMaxAbsError) sums.fullMaxAbsError = fullMax;
  sums.numClippedWeights += numClipped;
  if (numClipped > 0) sums.numClippedGroups++;
}
