import { bf16ToFloat, floatToBf16 } from '@qspec/core';
import { project, projection } from './codes.js';

/**
 * How the scale of a group is found, always among bfloat16 values and always judged by the squared error of the group.
 * `none`: largest magnitude / 7. `fast`: a coarse grid, each candidate refined by least squares; within 1 % of the best squared error.
 * `exhaustive`: every bfloat16 value from magnitude / 16 to magnitude / 6; about 20 times slower, the truth that `fast` is tested against.
 */
export const CLIP_SEARCHES = ['none', 'fast', 'exhaustive'] as const;
export type ClipSearch = (typeof CLIP_SEARCHES)[number];

/** bfloat16 bits of 1.0: the scale of a group in which every code is zero. */
export const UNIT_SCALE_BITS = 0x3f80;

/** Smallest normal bfloat16; a group that needs a smaller scale is stored as zeros. */
const MIN_SCALE_BITS = 0x0080;

/** Largest finite bfloat16. */
const MAX_SCALE_BITS = 0x7f7f;

/**
 * Scales of `fast`'s grid over the group's largest magnitude. Measured on Gaussian and Laplacian weights, groups of 32 to 128: squared error
 * 0.1-0.7 % above `exhaustive`'s with these six, 0.05-0.4 % with eight at 1.3 times the time, 0.5-1.2 % with four.
 */
const GRID = [0.142, 0.132, 0.122, 0.112, 0.1, 0.088] as const;

/** Weights of one group: `length` elements of `values` from `offset` on. */
export interface Group {
  values: Float32Array;
  offset: number;
  length: number;
  /** Largest |w|. */
  magnitude: number;
  /** Σ w² */
  sumOfSquares: number;
  /** Smallest scale that no weight has to be clipped beyond the caller's limit for. */
  minScale: number;
}

/**
 * Fills in what the weights determine.
 * @param maxClip how far a weight may lie beyond 7 or below -8, in steps of the scale; Infinity: anywhere.
 */
export function measureGroup(group: Group, maxClip: number): void {
  const { values, offset, length } = group;
  let max = 0;
  let min = 0;
  let sumOfSquares = 0;
  for (let i = offset; i < offset + length; i++) {
    const w = values[i]!;
    if (w > max) max = w;
    if (w < min) min = w;
    sumOfSquares += w * w;
  }
  group.magnitude = Math.max(max, -min);
  group.sumOfSquares = sumOfSquares;
  group.minScale = Math.max(max / (7 + maxClip), -min / (8 + maxClip));
}

/** bfloat16 bits of the scale to quantise `group` (measured, all finite) with. */
export function chooseScale(group: Group, search: ClipSearch): number {
  const amaxBits = scaleBits(group.magnitude / 7);
  if (amaxBits === 0) return UNIT_SCALE_BITS;
  if (search === 'none') return amaxBits;
  return search === 'fast' ? searchGrid(group, amaxBits) : searchAll(group, amaxBits);
}

/** Never worse than `amaxBits`, which is one of the candidates. */
function searchGrid(group: Group, amaxBits: number): number {
  let bestGain = -1;
  let refined = 0;
  for (const ratio of GRID) {
    project(group.values, group.offset, group.length, Math.max(group.minScale, group.magnitude * ratio));
    const gain = (projection.weightCode * projection.weightCode) / projection.codeCode;
    if (gain > bestGain) {
      bestGain = gain;
      refined = projection.weightCode / projection.codeCode;
    }
  }
  const first = scaleBits(Math.max(group.minScale, refined));
  const firstError = squaredError(group, first);
  const second = scaleBits(Math.max(group.minScale, projection.weightCode / projection.codeCode));
  const secondError = second === first ? firstError : squaredError(group, second);
  const [bits, error] = secondError < firstError ? [second, secondError] : [first, firstError];
  return error < squaredError(group, amaxBits) ? bits : amaxBits;
}

function searchAll(group: Group, amaxBits: number): number {
  const last = Math.min(MAX_SCALE_BITS, scaleBits(group.magnitude / 6));
  let best = amaxBits;
  let bestError = squaredError(group, amaxBits);
  for (
    let bits = Math.max(MIN_SCALE_BITS, scaleBits(Math.max(group.minScale, group.magnitude / 16)));
    bits <= last;
    bits++
  ) {
    const error = squaredError(group, bits);
    if (error < bestError) {
      best = bits;
      bestError = error;
    }
  }
  return best;
}

/** Nearest bfloat16, or 0 when that would be subnormal. */
function scaleBits(scale: number): number {
  const bits = floatToBf16(scale);
  return bits < MIN_SCALE_BITS ? 0 : bits;
}

/** With codes q for scale s: Σ (w - s·q)² = Σ w² - 2s·Σ wq + s²·Σ q², so one pass gives the error and the scale Σ wq / Σ q² that suits q best. */
function squaredError(group: Group, bits: number): number {
  if (bits === 0) return group.sumOfSquares;
  const scale = bf16ToFloat(bits);
  project(group.values, group.offset, group.length, scale);
  return group.sumOfSquares - scale * (2 * projection.weightCode - scale * projection.codeCode);
}
