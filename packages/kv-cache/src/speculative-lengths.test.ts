import { InvariantError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { SpeculativeLengths } from './speculative-lengths.js';

describe('SpeculativeLengths', () => {
  it('moves committedLen within what was reserved and forgets the rest at rollback', () => {
    const lengths = new SpeculativeLengths(16);
    lengths.reserve(21, 32);
    lengths.commit(3);
    expect([lengths.committedLen, lengths.speculativeLen, lengths.capacityLen]).toEqual([19, 21, 32]);
    lengths.rollback(32);
    expect(lengths.speculativeLen).toBe(19);
  });

  it('refuses to commit what was not reserved', () => {
    const lengths = new SpeculativeLengths(0);
    lengths.reserve(4, 16);
    expect(() => lengths.commit(5)).toThrow(InvariantError);
  });

  it('refuses capacity below what may have been written', () => {
    const lengths = new SpeculativeLengths(0);
    expect(() => lengths.reserve(17, 16)).toThrow(/≤ capacityLen but received 0, 0, 17, 16/);
  });
});
