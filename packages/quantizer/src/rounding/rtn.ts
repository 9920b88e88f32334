import { bf16ToFloat } from '@qspec/core';
import { chooseScale, type Group, measureGroup } from './clip-search.js';
import { roundToCodes } from './codes.js';
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
      roundToCodes(weights, group.offset, groupSize, bf16ToFloat(bits), hi);
    }
    return { hi, scales };
  },
};
