import { OutOfMemoryError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { type MemoryRequest, planMemory } from './memory-plan.js';

const MIB = 2 ** 20;
// 2 layers · 2 (K, V) · 4 heads · 32 · 2 bytes = 1 KiB a token, 16 KiB a page.
const base: MemoryRequest = {
  config: { numLayers: 2, numKvHeads: 4, headDim: 32 },
  kvFormat: 'bf16',
  pageSize: 16,
  maxContext: 256,
  isContextFixed: false,
  maxRunning: 4,
  maxDraftLen: 8,
  freeBytes: 64 * MIB,
};

describe('planMemory', () => {
  it('gives every running sequence its longest context when memory allows', () => {
    const plan = planMemory(base);
    expect(plan.kv.numPages).toBe(4 * 17); // 264 tokens are 17 pages
    expect(plan.kvBytes).toBe(68 * 16 * 1024);
    expect(plan.maxContext).toBe(256);
  });

  it('stays within a default size unless one sequence needs more', () => {
    const huge = { ...base, maxContext: 400_000, maxRunning: 64, freeBytes: 2 ** 40 };
    expect(planMemory(huge).kvBytes).toBe(2 ** 30); // 1 GiB is 65 536 pages, more than one sequence needs
    expect(planMemory({ ...huge, maxContext: 4_000_000 }).kv.numPages).toBe(250_001);
  });

  it('takes what is wanted, within half of the free memory, where no default size is set', () => {
    const huge = { ...base, maxContext: 400_000, maxRunning: 64, defaultKvBytes: Number.POSITIVE_INFINITY };
    expect(planMemory({ ...huge, freeBytes: 2 ** 40 }).kv.numPages).toBe(64 * 25_001);
    expect(planMemory({ ...huge, freeBytes: 2 ** 33 }).kvBytes).toBe(2 ** 32);
  });

  it('takes at most half of the free memory', () => {
    expect(planMemory({ ...base, freeBytes: 1 * MIB }).kv.numPages).toBe(32);
  });

  it('lowers a context that nobody asked for to what fits', () => {
    const plan = planMemory({ ...base, freeBytes: MIB / 4 });
    expect(plan.kv.numPages).toBe(8);
    expect(plan.maxContext).toBe(8 * 16 - 8);
  });

  it('refuses a context that was asked for and does not fit, naming both sizes and what to lower', () => {
    const plan = () => planMemory({ ...base, freeBytes: MIB / 4, isContextFixed: true });
    expect(plan).toThrow(OutOfMemoryError);
    expect(plan).toThrow(/context of 256 tokens needs 0\.3 MiB and the pool holds 128 tokens\. Lower `maxContext`/);
  });

  it('takes `kvCacheTokens` exactly or not at all', () => {
    expect(planMemory({ ...base, kvCacheTokens: 300 }).kv.numPages).toBe(19);
    expect(() => planMemory({ ...base, kvCacheTokens: 100_000 })).toThrow(/`kvCacheTokens` 100000/);
  });

  it('refuses when not even a page fits', () => {
    expect(() => planMemory({ ...base, freeBytes: 100 })).toThrow(OutOfMemoryError);
  });
});
