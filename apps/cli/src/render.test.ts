import { describe, expect, it } from 'vitest';
import { readConfig } from './config.js';
import { formatBytes, formatPercent, ProgressBar, renderTable } from './render.js';

describe('render', () => {
  it('aligns text to the left and numbers to the right', () => {
    expect(
      renderTable(
        ['name', 'n'],
        [
          ['a', '5'],
          ['long', '12'],
        ],
      ),
    ).toBe('name   n\n────  ──\na      5\nlong  12');
  });

  it('names bytes and shares', () => {
    expect([0, 1023, 1536, 98_362_432].map(formatBytes)).toEqual(['0 B', '1023 B', '1.5 KiB', '93.8 MiB']);
    expect(formatPercent(0.1234)).toBe('12.3 %');
    expect(formatPercent(Number.NaN)).toBe('–');
  });

  it('writes a line for each tenth when the stream is not a terminal', () => {
    let written = '';
    const bar = new ProgressBar({ write: (text) => (written += text) }, false);
    for (let done = 0; done <= 100; done++) bar.update(done, 100, 'x');
    expect(written.split('\n').filter(Boolean)).toHaveLength(11);
    expect(written).not.toContain('\x1b');
  });

  it('uses colours only on a terminal that did not refuse them', () => {
    expect(readConfig({}, { isTTY: true }, {}).isColorful).toBe(true);
    expect(readConfig({}, {}, {}).isColorful).toBe(false);
    expect(readConfig({ NO_COLOR: '1' }, { isTTY: true }, {}).isColorful).toBe(false);
  });
});
