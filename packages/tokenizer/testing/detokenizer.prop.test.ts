import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Tokenizer } from '../src/index.js';
import { LARGE, loadTokenizer, SMALL } from './support.js';
import { pieceOfText } from './texts.js';

describe.each(['tally-10m', ...SMALL, ...LARGE])('incremental detokenisation of %s', (name) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(name);
  });

  const stream = (ids: Iterable<number>, skipSpecialTokens: boolean) => {
    const detokenizer = tokenizer.createDetokenizer({ skipSpecialTokens });
    const pieces = Array.from(ids, (id) => detokenizer.push(id));
    return [...pieces, detokenizer.flush()];
  };

  it('concatenates to the decoded whole for any ids', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(tokenizer.vocabSize + 3), { maxLength: 40 }),
        fc.boolean(),
        (ids, skipSpecialTokens) => {
          expect(stream(ids, skipSpecialTokens).join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
        },
      ),
    );
  });

  it('emits whole characters only, and no U+FFFD for well-formed text', () => {
    fc.assert(
      fc.property(fc.array(pieceOfText(), { maxLength: 12 }), (pieces) => {
        const ids = tokenizer.encodeSync(pieces.join('').replaceAll('\uFFFD', ''));
        for (const piece of stream(ids, true)) {
          expect(piece).not.toMatch(/\uFFFD/);
          expect(piece).toBe(piece.replace(/\p{Surrogate}/gu, ''));
        }
      }),
    );
  });

  it('emits text as soon as it is certain', () => {
    const ids = tokenizer.encodeSync('The answer is 42 and more text', { addSpecialTokens: false });
    const detokenizer = tokenizer.createDetokenizer();
    const emitted = [...ids].map((id) => detokenizer.push(id)).join('');
    expect(emitted).toBe(tokenizer.decode(ids));
  });

  it('takes linear time', () => {
    const ids = tokenizer.encodeSync('some text 你好 '.repeat(200), { addSpecialTokens: false });
    const many = Array.from({ length: 40_000 }, (_, i) => ids[i % ids.length] as number);
    const start = performance.now();
    tokenizer.decode(many);
    expect(performance.now() - start).toBeLessThan(2000);
  });
});
