import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadTokenizer, SMALL } from './support.js';
import { mixedText } from './texts.js';

/**
 * Milliseconds that this thread has computed. Wall-clock gaps would count other processes too, which on a busy machine are longer than
 * anything measured here; where the system does not tell, the clock has to do.
 */
function threadMs(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  } catch {
    return performance.now();
  }
}

/** The longest stretch of computing between two ticks of a 5 ms timer while `work` runs. */
async function longestGapMs(work: () => Promise<unknown>): Promise<number> {
  let last = threadMs();
  let longest = 0;
  const tick = () => {
    const now = threadMs();
    longest = Math.max(longest, now - last);
    last = now;
  };
  const timer = setInterval(tick, 5);
  await work();
  tick();
  clearInterval(timer);
  return longest;
}

const MEGABYTE = mixedText(850_000);

describe('the event loop', { timeout: 240_000 }, () => {
  it('would show a thread that is kept busy', async () => {
    const busy = async () => {
      await new Promise((resolve) => setTimeout(resolve, 10));
      for (const start = threadMs(); threadMs() - start < 80; );
      await new Promise((resolve) => setTimeout(resolve, 10));
    };
    expect(await longestGapMs(busy)).toBeGreaterThan(70);
  });

  it.each(['tally-10m', 'qwen3', ...SMALL])('keeps ticking while %s encodes a megabyte', async (name) => {
    const tokenizer = await loadTokenizer(name);
    await tokenizer.encode(MEGABYTE.slice(0, 20_000));
    expect(Buffer.byteLength(MEGABYTE)).toBeGreaterThan(1_000_000);
    expect(await longestGapMs(() => tokenizer.encode(MEGABYTE))).toBeLessThan(50);
  });

  it('keeps ticking over Chinese prose without a space', async () => {
    const tokenizer = await loadTokenizer('qwen3');
    const text = '今天天气很好,我们去公园散步。孩子们在湖边放风筝,老人们坐在树下下棋!'.repeat(4000);
    expect(await longestGapMs(() => tokenizer.encode(text))).toBeLessThan(50);
  });

  it.each(['tally-10m', 'llama2-type'])('keeps ticking while %s encodes a text that cannot be cut', async (name) => {
    const tokenizer = await loadTokenizer(name);
    const text = 'a'.repeat(200_000);
    let ids: Int32Array | undefined;
    expect(
      await longestGapMs(async () => {
        ids = await tokenizer.encode(text, { addSpecialTokens: false });
      }),
    ).toBeLessThan(50);
    expect(tokenizer.decode(ids ?? [])).toBe(text);
  });
});
