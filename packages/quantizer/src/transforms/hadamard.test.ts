import { ConfigError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { hadamardRows, isHadamardBlock } from './hadamard.js';

/** Sylvester's matrix by its other definition: the sign at (i, j) is the parity of the bits that i and j share. */
function sign(i: number, j: number): number {
  let shared = i & j;
  let parity = 1;
  for (; shared > 0; shared &= shared - 1) parity = -parity;
  return parity;
}

function randomValues(length: number): Float32Array {
  let state = 1;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

describe('hadamardRows', () => {
  it.each([2, 4, 8, 32, 64, 256])('multiplies by the Sylvester matrix over its square root, block %i', (block) => {
    const input = randomValues(3 * block);
    const output = input.slice();
    hadamardRows(output, block);
    for (let start = 0; start < input.length; start += block) {
      for (let j = 0; j < block; j++) {
        let sum = 0;
        for (let i = 0; i < block; i++) sum += input[start + i]! * sign(i, j);
        expect(output[start + j]).toBeCloseTo(sum / Math.sqrt(block), 6);
      }
    }
  });

  it('is its own inverse', () => {
    const input = randomValues(4 * 64);
    const output = input.slice();
    hadamardRows(output, 64);
    hadamardRows(output, 64);
    input.forEach((value, i) => {
      expect(output[i]).toBeCloseTo(value, 6);
    });
  });

  it('leaves the product with an equally rotated input unchanged', () => {
    const weights = randomValues(128);
    const inputs = randomValues(256).subarray(128);
    const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    const expected = dot(weights, inputs);
    const rotatedWeights = weights.slice();
    const rotatedInputs = inputs.slice();
    hadamardRows(rotatedWeights, 32);
    hadamardRows(rotatedInputs, 32);
    expect(dot(rotatedWeights, rotatedInputs)).toBeCloseTo(expected, 5);
  });

  it.each([0, 1, 3, 48, 256, -2, 2.5, Number.NaN])('refuses block %d for 128 values', (block) => {
    expect(() => hadamardRows(new Float32Array(128), block)).toThrow(ConfigError);
  });
});

describe('isHadamardBlock', () => {
  it('accepts powers of two from 2', () => {
    expect([2, 64, 4096].every(isHadamardBlock)).toBe(true);
    expect([0, 1, 6, 2 ** 21, Number.POSITIVE_INFINITY].some(isHadamardBlock)).toBe(false);
  });
});
