import { describe, expect, it } from 'vitest';
import { gammaWithin, TokenBudget } from './token-budget.js';

describe('gammaWithin', () => {
  it('shares what plain decoding leaves, alike', () => {
    expect(gammaWithin(16, 4, 0)).toBe(3);
    expect(gammaWithin(17, 4, 0)).toBe(3);
    expect(gammaWithin(4, 4, 0)).toBe(0);
    expect(gammaWithin(16, 0, 5)).toBe(0);
  });

  it('keeps a quarter of all rows for pending prefill, or as much as that needs', () => {
    expect(gammaWithin(16, 4, 100)).toBe(2);
    expect(gammaWithin(16, 4, 1)).toBe(2);
    expect(gammaWithin(16, 2, 1)).toBe(6);
    expect(gammaWithin(5, 4, 100)).toBe(0);
  });
});

describe('TokenBudget', () => {
  it('refuses to go over', () => {
    const budget = new TokenBudget(3);
    budget.take(3);
    budget.giveBack(1);
    expect([budget.used, budget.left]).toEqual([2, 1]);
    expect(() => budget.take(2)).toThrow(/at most 3 rows/);
  });
});
