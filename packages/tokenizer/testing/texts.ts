import fc from 'fast-check';

const WORDS =
  'the quick brown fox It’s don’t 12 345 3.14 1,000,000 naïve été — … 你好,世界。 日本語 안녕 שלום مرحبا 👩‍👩‍👧‍👦 👍🏽 🇩🇪 e\u0301 == => {} (a) "q" _x_ foo.bar user@mail <s> </s> <|end|> [CLS] <|im_start|> x1y2 URL https://a.b/c?d=1 ▁ ## \u200b'.split(
    ' ',
  );
const GAPS = [' ', ' ', ' ', ' ', '', '  ', '\n', '\n\n', '\t', '\r\n', ' \n ', '    '];

/** A word and the gap after it, of every script and kind of white space. */
export function pieceOfText(): fc.Arbitrary<string> {
  const word = fc.oneof(
    fc.constantFrom(...WORDS),
    fc.string({ unit: 'grapheme', maxLength: 6 }),
    fc.stringMatching(/^[a-zA-Z]{1,8}$/),
  );
  return fc.tuple(word, fc.constantFrom(...GAPS)).map(([a, b]) => (a + b).replace(/\p{Surrogate}/gu, ''));
}

/** Reproducible text of `length` characters with the same ingredients. */
export function mixedText(length: number): string {
  let state = 1;
  const next = (bound: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % bound;
  };
  const parts: string[] = [];
  for (let size = 0; size < length; size += parts.at(-1)?.length ?? 0) {
    parts.push((WORDS[next(WORDS.length)] as string) + (GAPS[next(GAPS.length)] as string));
  }
  return parts.join('');
}
