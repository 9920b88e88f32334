import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bf16ToFloat, f16ToFloat, floatToBf16, floatToF16, roundHalfEven } from './dtype.js';

describe('bfloat16', () => {
  it('survives the way to float and back for every bit pattern', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = bf16ToFloat(bits);
      if (Number.isNaN(value)) expect(bf16ToFloat(floatToBf16(value))).toBeNaN();
      else if (floatToBf16(value) !== bits) expect.fail(`bits ${bits} became ${floatToBf16(value)}`);
    }
  });

  it('rounds to the nearest, ties to even', () => {
    expect(floatToBf16(1 + 2 ** -8)).toBe(floatToBf16(1)); // a tie: 1.0 has the even last bit
    expect(bf16ToFloat(floatToBf16(1 + 3 * 2 ** -8))).toBe(1 + 2 ** -6); // a tie above an odd last bit
    expect(bf16ToFloat(floatToBf16(1 + 2 ** -8 + 2 ** -20))).toBe(1 + 2 ** -7);
    expect(bf16ToFloat(floatToBf16(3.4e38))).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('half', () => {
  it('survives the way to float and back for every bit pattern', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = f16ToFloat(bits);
      if (Number.isNaN(value)) expect(f16ToFloat(floatToF16(value))).toBeNaN();
      else if (floatToF16(value) !== bits) expect.fail(`bits ${bits} became ${floatToF16(value)}`);
    }
  });

  it('is never further away than a neighbour', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, min: -65504, max: 65504 }), (value) => {
        const bits = floatToF16(value);
        const error = Math.abs(f16ToFloat(bits) - value);
        for (const neighbour of [bits - 1, bits + 1]) {
          const other = f16ToFloat(neighbour & 0xffff);
          if (Number.isFinite(other)) expect(error).toBeLessThanOrEqual(Math.abs(other - value));
        }
      }),
    );
  });
});

describe('roundHalfEven', () => {
  it('takes the even neighbour of a tie', () => {
    expect([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 0.51].map((x) => roundHalfEven(x) + 0)).toEqual([0, 2, 2, 0, -2, 0, 1]);
  });
});
