import { describe, expect, it } from 'vitest';
import { MAX_BUSY_MS, repeatedGaps } from '../../core/testing/event-loop-gaps.js';
import { loadTokenizer, SMALL } from './support.js';
import { mixedText } from './texts.js';

const MEGABYTE = mixedText(850_000);

describe('the event loop', { timeout: 240_000 }, () => {
  it.each(['tally-10m', 'qwen3', ...SMALL])('keeps ticking while %s encodes a megabyte', async (name) => {
    const tokenizer = await loadTokenizer(name);
    await tokenizer.encode(MEGABYTE.slice(0, 20_000));
    expect(Buffer.byteLength(MEGABYTE)).toBeGreaterThan(1_000_000);
    expect((await repeatedGaps(() => tokenizer.encode(MEGABYTE))).busyMs).toBeLessThan(MAX_BUSY_MS);
  });

  it('keeps ticking over Chinese prose without a space', async () => {
    const tokenizer = await loadTokenizer('qwen3');
    const text = '今天天气很好,我们去公园散步。孩子们在湖边放风筝,老人们坐在树下下棋!'.repeat(4000);
    expect((await repeatedGaps(() => tokenizer.encode(text))).busyMs).toBeLessThan(MAX_BUSY_MS);
  });

  it.each(['tally-10m', 'llama2-type'])('keeps ticking while %s encodes a text that cannot be cut', async (name) => {
    const tokenizer = await loadTokenizer(name);
    const text = 'a'.repeat(200_000);
    let ids: Int32Array | undefined;
    const { busyMs } = await repeatedGaps(async () => {
      ids = await tokenizer.encode(text, { addSpecialTokens: false });
    });
    expect(busyMs).toBeLessThan(MAX_BUSY_MS);
    expect(tokenizer.decode(ids ?? [])).toBe(text);
  });
});
