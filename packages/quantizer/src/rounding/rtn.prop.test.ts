import { bf16ToFloat, GROUP_SIZES } from '@qspec/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { residualCodes } from '../nested.js';
import { CLIP_SEARCHES, type ClipSearch } from './clip-search.js';
import type { RoundedRows } from './rounding.js';
import { rtn } from './rtn.js';

/** Any finite float32s, from subnormal to huge, in runs of one magnitude and with zeros: [numRows = 1, numColumns]. */
const cases = fc
  .record({
    groupSize: fc.constantFrom(...GROUP_SIZES),
    exponent: fc.integer({ min: -149, max: 127 }),
    spread: fc.constantFrom(0, 1, 8, 40),
    tail: fc.constantFrom(1, 3, 5),
    seeds: fc.array(fc.tuple(fc.double({ min: -1, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })), {
      minLength: 1,
      maxLength: 64,
    }),
  })
  .map(({ groupSize, exponent, spread, tail, seeds }) => ({
    groupSize,
    weights: Float32Array.from({ length: 2 * groupSize }, (_, i) => {
      const [mantissa, shift] = seeds[i % seeds.length]!;
      return Math.fround(mantissa ** tail * 2 ** Math.max(-160, exponent - Math.round(shift * spread)));
    }),
  }));

/** `lo` reaches from -8 to 7: residuals of +0.5 steps of `hi` at radix 15 need 7.5, and get 7. */
const HALF_STEP = 0.5;

/** The smallest allowed scale may be rounded down to bfloat16, 1 part in 2⁸ of up to 8.94 steps. */
const BF16_ROUNDING = 9 / 256;

function round(
  weights: Float32Array,
  groupSize: 32 | 64 | 128,
  clipSearch: ClipSearch,
  maxClip = Number.POSITIVE_INFINITY,
): RoundedRows {
  return rtn.round({
    weights,
    numRows: 1,
    numColumns: weights.length,
    groupSize,
    clipSearch,
    maxClip,
  });
}

/** What trained weights look like, and what a clip search clips hardest: Gaussian, in groups of `groupSize`. */
const gaussianCases = fc
  .record({ groupSize: fc.constantFrom(...GROUP_SIZES), seed: fc.integer({ min: 1, max: 2 ** 31 }) })
  .map(({ groupSize, seed }) => {
    let state = seed;
    const uniform = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state + 0.5) / 2 ** 32;
    };
    const weights = Float32Array.from(
      { length: 4 * groupSize },
      () => 0.02 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
    );
    return { groupSize, weights };
  });

function groupErrors(
  weights: Float32Array,
  rounded: RoundedRows,
  groupSize: number,
  lo?: Int8Array,
  radix = 1,
): number[] {
  const errors = Array.from(rounded.scales, () => 0);
  weights.forEach((weight, i) => {
    const group = Math.floor(i / groupSize);
    const scale = bf16ToFloat(rounded.scales[group]!);
    errors[group]! += (weight - scale * (rounded.hi[i]! + (lo ? lo[i]! / radix : 0))) ** 2;
  });
  return errors;
}

describe('round to nearest', () => {
  it('keeps codes in range and scales positive, finite and normal', () => {
    fc.assert(
      fc.property(cases, fc.constantFrom(...CLIP_SEARCHES), ({ weights, groupSize }, clipSearch) => {
        const { hi, scales } = round(weights, groupSize, clipSearch);
        expect(hi.every((code) => code >= -8 && code <= 7)).toBe(true);
        expect(scales.every((bits) => bits >= 0x0080 && bits <= 0x7f7f)).toBe(true);
      }),
    );
  });

  it('never errs more with a clip search than without, nor less than the exhaustive one', () => {
    fc.assert(
      fc.property(cases, ({ weights, groupSize }) => {
        const [none, fast, exhaustive] = CLIP_SEARCHES.map((clipSearch) =>
          groupErrors(weights, round(weights, groupSize, clipSearch), groupSize),
        );
        const slack = weights.reduce((sum, weight) => sum + weight * weight, 0) * 1e-12;
        fast!.forEach((error, group) => {
          expect(error).toBeLessThanOrEqual(none![group]! + slack);
          expect(exhaustive![group]!).toBeLessThanOrEqual(none![group]! + slack);
        });
      }),
    );
  });

  it('gives every weight the code nearest to it', () => {
    fc.assert(
      fc.property(cases, fc.constantFrom(...CLIP_SEARCHES), ({ weights, groupSize }, clipSearch) => {
        const { hi, scales } = round(weights, groupSize, clipSearch);
        weights.forEach((weight, i) => {
          const scale = bf16ToFloat(scales[Math.floor(i / groupSize)]!);
          const errors = Array.from({ length: 16 }, (_, code) => Math.abs(weight - scale * (code - 8)));
          expect(Math.abs(weight - scale * hi[i]!)).toBeLessThanOrEqual(Math.min(...errors) * (1 + 1e-12));
        });
      }),
      { numRuns: 30 },
    );
  });

  it('rounds groups on their own', () => {
    fc.assert(
      fc.property(cases, ({ weights, groupSize }) => {
        const whole = round(weights, groupSize, 'fast');
        const second = round(weights.slice(groupSize), groupSize, 'fast');
        expect(whole.hi.slice(groupSize)).toEqual(second.hi);
        expect(whole.scales.slice(1)).toEqual(second.scales);
      }),
    );
  });

  it('stores a group of zeros as zeros', () => {
    for (const clipSearch of CLIP_SEARCHES) {
      expect(round(new Float32Array(32), 32, clipSearch)).toEqual({
        hi: new Int8Array(32),
        scales: Uint16Array.of(0x3f80),
      });
    }
  });
});

describe('residual codes', () => {
  it('stay in range, keep the 8-bit code within int8 and never add error to a group', () => {
    fc.assert(
      fc.property(cases, fc.integer({ min: 8, max: 15 }), fc.constantFrom(...CLIP_SEARCHES), (input, radix, search) => {
        const { weights, groupSize } = input;
        const rounded = round(weights, groupSize, search);
        const lo = residualCodes(weights, rounded, groupSize, radix);
        lo.forEach((code, i) => {
          const full = radix * rounded.hi[i]! + code;
          expect(code >= -8 && code <= 7 && full >= -128 && full <= 127).toBe(true);
        });
        const hiErrors = groupErrors(weights, rounded, groupSize);
        groupErrors(weights, rounded, groupSize, lo, radix).forEach((error, group) => {
          expect(error).toBeLessThanOrEqual(hiErrors[group]! * (1 + 1e-12));
        });
      }),
    );
  });

  it('reach every weight to about half their step when the clip search was told how far they reach', () => {
    fc.assert(
      fc.property(
        fc.oneof(gaussianCases, cases),
        fc.integer({ min: 8, max: 15 }),
        fc.constantFrom(...CLIP_SEARCHES),
        (input, radix, search) => {
          const { weights, groupSize } = input;
          const rounded = round(weights, groupSize, search, 7.5 / radix);
          const lo = residualCodes(weights, rounded, groupSize, radix);
          weights.forEach((weight, i) => {
            const scale = bf16ToFloat(rounded.scales[Math.floor(i / groupSize)]!);
            const error = Math.abs(weight - scale * (rounded.hi[i]! + lo[i]! / radix));
            expect(error).toBeLessThanOrEqual(scale * (HALF_STEP / radix + BF16_ROUNDING));
          });
        },
      ),
    );
  });
});
