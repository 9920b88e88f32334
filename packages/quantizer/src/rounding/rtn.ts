import { bf16ToFloat } from '@qspec/core';
import { chooseScale, type Group, measureGroup } from './clip-search.js';
import { nearestCode } from './nearest-code.js';
import type { RoundedRows, Rounding, RoundingInput } from './rounding.js';

/**
 * Round to nearest (ties to even): each weight on its own, once its group has a scale. The scale is rounded to bfloat16 *before* codes are
 * chosen, so that what is stored is what was optimised. Needs no calibration.
 */
export const rtn: Rounding = {
  name: 'rtn',
  round(input: RoundingInput): RoundedRows {
    const { weights, numRows, numColumns, groupSize, clipSearch, maxClip } = input;
    const hi = new Int8Array(numRows * numColumns);
    const scales = new Uint16Array((numRows * numColumns) / groupSize);
    const group: Group = { values: weights, offset: 0, length: groupSize, magnitude: 0, sumOfSquares: 0, minScale: 0 };
    for (let index = 0; index < scales.length; index++) {
      group.offset = index * groupSize;
      measureGroup(group, maxClip);
      const bits = chooseScale(group, clipSearch);
      scales[index] = bits;
      roundGroup(group, bf16ToFloat(bits), hi);
    }
    return { hi, scales };
  },
};

/** codes = clamp(round(w / scale), -8, 7) at the group's place in `codes`. */
function roundGroup(group: Group, scale: number, codes: Int8Array): void {
  const inverse = 1 / scale;
  const end = group.offset + group.length;
  for (let i = group.offset; i < end; i++) {
    codes[i] = nearestCode(group.values[i]! * inverse);
  }
}
