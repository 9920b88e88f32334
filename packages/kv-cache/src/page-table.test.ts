import { describe, expect, it } from 'vitest';
import { PageTable } from './page-table.js';

describe('PageTable', () => {
  it('keeps its ids in order while it grows and shrinks', () => {
    const table = new PageTable();
    for (let id = 0; id < 100; id++) table.push(id * 3);
    expect([...table.view()]).toEqual(Array.from({ length: 100 }, (_, id) => id * 3));
    for (let id = 99; id >= 40; id--) expect(table.pop()).toBe(id * 3);
    expect(table.view().length).toBe(40);
    table.replace(39, 7);
    expect(table.at(39)).toBe(7);
  });

  it('lends the same view until it changes', () => {
    const table = new PageTable();
    table.push(5);
    const view = table.view();
    expect(table.view()).toBe(view);
    table.push(6);
    expect([...table.view()]).toEqual([5, 6]);
  });

  it('refuses indices outside', () => {
    const table = new PageTable();
    expect(() => table.pop()).toThrow(/page index/);
    expect(() => table.at(0)).toThrow(/page index/);
    expect(() => table.replace(0, 1)).toThrow(/page index/);
  });
});
