import type { GroupSize } from '@qspec/core';
import type { ClipSearch } from './clip-search.js';

/**
 * Some rows of one weight matrix, in the basis they are stored in (already rotated when the format has a Hadamard block).
 * Rows never depend on one another, so a matrix may be handed over in as many pieces as one likes.
 */
export interface RoundingInput {
  /** [numRows, numColumns], row-major, all finite. Not changed. */
  readonly weights: Float32Array;
  readonly numRows: number;
  readonly numColumns: number;
  /** Divides numColumns. */
  readonly groupSize: GroupSize;
  readonly clipSearch: ClipSearch;
  /**
   * How far clip search may leave a weight outside the reach of its codes, in steps of the scale. Infinity for W4; for a nested weight what `lo`
   * can still mend, so that a better `hi` never costs the target.
   */
  readonly maxClip: number;
  /** What calibration learnt of this layer's inputs. Methods that need none ignore it. */
  readonly calibration?: CalibrationStatistics;
}

/** Second moments of a layer's inputs, in the same (rotated) basis as the weights. */
export interface CalibrationStatistics {
  /** [numColumns, numColumns], symmetric: sum over samples of x·xᵀ. */
  readonly hessian: Float64Array;
  readonly numSamples: number;
}

/** `w ≈ scale · hi`. */
export interface RoundedRows {
  /** [numRows, numColumns], each in [-8, 7]. */
  readonly hi: Int8Array;
  /** [numRows, numColumns / groupSize] bfloat16 bits; finite and greater than 0. A group of zeros has scale 1. */
  readonly scales: Uint16Array;
}

/** How real weights become 4-bit codes and scales: the one place where quantisation methods differ. Must be deterministic. */
export interface Rounding {
  readonly name: RoundingName;
  round(input: RoundingInput): RoundedRows;
}

/** Methods that a recipe can name. */
export type RoundingName = 'rtn';
