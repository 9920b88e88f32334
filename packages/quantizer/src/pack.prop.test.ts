import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { packNibbles, unpackNibbles } from './pack.js';

const code = fc.integer({ min: -8, max: 7 });
const codes = fc
  .integer({ min: 0, max: 40 })
  .chain((words) => fc.array(code, { minLength: 8 * words, maxLength: 8 * words }))
  .map((values) => Int8Array.from(values));

describe('packing', () => {
  it('is undone by unpacking', () => {
    fc.assert(
      fc.property(codes, (values) => {
        expect(unpackNibbles(packNibbles(values))).toEqual(values);
      }),
    );
  });

  it('is what unpacking undoes, for any word', () => {
    const words = fc.array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })).map((values) => Int32Array.from(values));
    fc.assert(
      fc.property(words, (values) => {
        expect(packNibbles(unpackNibbles(values))).toEqual(values);
      }),
    );
  });

  it('changes one nibble when one code changes', () => {
    fc.assert(
      fc.property(codes, fc.nat(), code, (values, seed, replacement) => {
        fc.pre(values.length > 0);
        const index = seed % values.length;
        const changed = values.slice();
        changed[index] = replacement;
        const expected = packNibbles(values);
        const shift = 4 * (index % 8);
        expected[index >> 3] = (expected[index >> 3]! & ~(15 << shift)) | ((replacement + 8) << shift);
        expect(packNibbles(changed)).toEqual(expected);
      }),
    );
  });
});
