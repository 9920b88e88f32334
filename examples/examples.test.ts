import { LLM } from '@qspec/engine';
import { describe, expect, it } from 'vitest';
import { main as customPipeline } from './custom-pipeline.js';
import { main as generate } from './generate.js';
import { main as twoModes } from './one-backend-two-modes.js';
import { TALLY } from './run-directly.js';

/** Runs an example and keeps what it wrote. */
async function run<T>(main: (write: (text: string) => void) => Promise<T>): Promise<{ result: T; written: string }> {
  const pieces: string[] = [];
  const result = await main((text) => pieces.push(text));
  return { result, written: pieces.join('') };
}

describe('examples', () => {
  it('generate.ts streams the answer and says how it went', async () => {
    const { result, written } = await run(generate);
    expect(result).toMatch(/####/);
    expect(written).toMatch(/\[stop: \d+ tokens, \d+ tokens\/s\]/);
    expect(written.startsWith(result)).toBe(true);
  });

  it('custom-pipeline.ts gives the text that LLM gives', async () => {
    const { result, written } = await run(customPipeline);
    expect(written).toBe(result);
    await using llm = await LLM.load(TALLY);
    const messages = [{ role: 'user', content: 'Rosa has 80 nuts and gives away 23. How many are left?' }];
    expect(result).toBe((await llm.generate({ messages, temperature: 0, maxTokens: 100 })).text);
  });

  it('one-backend-two-modes.ts gives the target’s text with and without a draft', async () => {
    const { result, written } = await run(twoModes);
    expect(result['draft for target']).toBe(result['target (w8a16)']);
    expect(written).toMatch(/accepted [1-9]\d* %/);
  });
});
