import { beforeAll, describe, expect, it } from 'vitest';
import type { Tokenizer } from '../src/index.js';
import { LARGE, loadTokenizer, readVector, SMALL } from './support.js';

interface EncodeVectors {
  samples: string[];
  tokenizers: Record<
    string,
    {
      cases: { ids: number[]; bare: number[]; decoded: string; raw: string }[];
      decode: { ids: number[]; decoded: string }[];
    }
  >;
}

const vectors = readVector<EncodeVectors>('encode.json');

describe.each(['tally-10m', ...SMALL, ...LARGE])('%s against the tokenizers library', (name) => {
  const { cases, decode } = vectors.tokenizers[name] as EncodeVectors['tokenizers'][string];
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(name);
  });

  it.each(vectors.samples.map((text, index) => ({ text, index })))(
    'encodes and decodes $text',
    async ({ text, index }) => {
      const expected = cases[index] as (typeof cases)[number];
      expect([...tokenizer.encodeSync(text, { addSpecialTokens: false })]).toEqual(expected.bare);
      expect([...(await tokenizer.encode(text))]).toEqual(expected.ids);
      expect(tokenizer.decode(expected.ids)).toBe(expected.decoded);
      expect(tokenizer.decode(expected.ids, { skipSpecialTokens: false })).toBe(expected.raw);
    },
  );

  // Of a run of byte tokens that is malformed anywhere the library makes U+FFFD for every byte. We keep what is well-formed,
  // or no character of the run could be streamed before its end.
  it('decodes arbitrary ids', () => {
    const hasByteTokens = name === 'llama2-type' || name === 'gemma3';
    for (const { ids, decoded } of decode) {
      const text = tokenizer.decode(ids, { skipSpecialTokens: false });
      if (hasByteTokens && decoded.includes('\uFFFD')) expect(text).toContain('\uFFFD');
      else expect(text).toBe(decoded);
    }
  });
});
