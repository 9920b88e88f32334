import { ShapeMismatchError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { packNibbles, unpackNibbles } from './pack.js';

describe('packNibbles', () => {
  it('puts the first code into the lowest nibble, plus 8', () => {
    expect([...packNibbles(Int8Array.of(-8, -7, -6, -5, -4, -3, -2, -1))]).toEqual([0x76543210]);
    expect(packNibbles(Int8Array.of(0, 1, 2, 3, 4, 5, 6, 7))[0]! >>> 0).toBe(0xfedcba98);
  });

  it('refuses a number of codes that is no multiple of 8', () => {
    expect(() => packNibbles(new Int8Array(12))).toThrow(ShapeMismatchError);
  });
});

describe('unpackNibbles', () => {
  it('reads words with the sign bit set', () => {
    expect([...unpackNibbles(Int32Array.of(-1))]).toEqual([7, 7, 7, 7, 7, 7, 7, 7]);
  });
});
