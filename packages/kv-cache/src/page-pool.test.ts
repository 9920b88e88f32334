import { ConfigError, InvariantError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { PagePool } from './page-pool.js';

describe('PagePool', () => {
  it('hands out every page once and then none', () => {
    const pool = new PagePool(3);
    const ids = [pool.tryAlloc(), pool.tryAlloc(), pool.tryAlloc()];
    expect(new Set(ids)).toEqual(new Set([0, 1, 2]));
    expect(pool.tryAlloc()).toBeUndefined();
    expect([pool.numFree, pool.numUsed]).toEqual([0, 3]);
  });

  it('frees a page with its last reference', () => {
    const pool = new PagePool(1);
    const pageId = pool.tryAlloc()!;
    pool.retain(pageId);
    expect(pool.release(pageId)).toBe(1);
    expect(pool.numFree).toBe(0);
    expect(pool.release(pageId)).toBe(0);
    expect(pool.tryAlloc()).toBe(pageId);
  });

  it('reports a double free, and holding a free or unknown page', () => {
    const pool = new PagePool(2);
    const pageId = pool.tryAlloc()!;
    pool.release(pageId);
    expect(() => pool.release(pageId)).toThrow(InvariantError);
    expect(() => pool.retain(pageId)).toThrow(InvariantError);
    expect(() => pool.release(7)).toThrow(/page 7/);
    expect(pool.numFree).toBe(2);
  });

  it('names leaked pages', () => {
    const pool = new PagePool(4);
    pool.expectNoLeaks();
    pool.tryAlloc();
    pool.tryAlloc();
    expect(() => pool.expectNoLeaks()).toThrow(/2 of 4 are held: 0, 1\./);
  });

  it.each([0, -1, 1.5, Number.NaN, 2 ** 31])('rejects numPages = %s', (numPages) => {
    expect(() => new PagePool(numPages)).toThrow(ConfigError);
  });
});
