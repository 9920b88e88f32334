import { bf16ToFloat } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { hadamardRows, quantizeWeight, unpackNibbles } from '../src/index.js';
import { bytesOf, floats, halves, readGolden, words } from './golden.js';

/** Mean ratio of squared errors, fast over exhaustive; 1.001 to 1.007 over millions of weights, more on these few groups. */
const FAST_SEARCH_SLACK = 1.02;

const golden = readGolden();
const source = {
  name: 'golden',
  shape: golden.shape,
  format: { kind: 'dense', dtype: 'f32' },
  data: bytesOf(golden.weights),
} as const;

describe('against NumPy', () => {
  it('rotates to the same float32 values', () => {
    const rotated = floats(golden.weights);
    hadamardRows(rotated, 64);
    expect(rotated).toEqual(floats(golden.rotated64));
  });

  describe.each(golden.cases)('group $groupSize, Hadamard $hadamardBlock, clip search $clipSearch', (expected) => {
    const { groupSize, hadamardBlock, clipSearch } = expected;

    it('finds the same scales and codes', () => {
      const format = { kind: 'int4', groupSize, hadamardBlock } as const;
      const { source: quantized, error } = quantizeWeight(source, format, { clipSearch });
      expect(quantized.scales).toEqual(halves(expected.scales));
      expect(quantized.hi).toEqual(words(expected.hi));
      expect(error.relativeError.hi).toBeCloseTo(expected.hiError, 12);
      expect(error.relativeError.full).toBe(error.relativeError.hi);
    });

    it.each(Object.keys(expected.lo))('leaves the same residual at radix %s, beside the very same W4', (radix) => {
      const format = { kind: 'nested8', groupSize, hadamardBlock, radix: Number(radix) } as const;
      const { source: quantized, error } = quantizeWeight(source, format, { clipSearch });
      expect(quantized.hi).toEqual(words(expected.hi));
      expect('lo' in quantized && quantized.lo).toEqual(words(expected.lo[radix]!));
      expect(error.relativeError.full).toBeCloseTo(expected.fullError[radix]!, 12);
    });

    it.runIf(clipSearch === 'exhaustive')('comes within 2 % of the best squared error by the fast search', () => {
      const format = { kind: 'int4', groupSize, hadamardBlock } as const;
      const { source: quantized } = quantizeWeight(source, format, { clipSearch: 'fast' });
      const weights = floats(hadamardBlock === 64 ? golden.rotated64 : golden.weights);
      const codes = unpackNibbles(quantized.hi);
      const errors = expected.groupErrors.map(() => 0);
      codes.forEach((code, i) => {
        const group = Math.floor(i / groupSize);
        errors[group]! += (weights[i]! - bf16ToFloat(quantized.scales[group]!) * code) ** 2;
      });
      const normalised = errors.map((error, group) => (error + 1e-30) / (expected.groupErrors[group]! + 1e-30));
      expect(Math.min(...normalised)).toBeGreaterThan(0.999999);
      expect(normalised.reduce((sum, ratio) => sum + ratio, 0) / normalised.length).toBeLessThan(FAST_SEARCH_SLACK);
    });
  });
});
