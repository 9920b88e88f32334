import { describe, expect, it } from 'vitest';
import { Tokenizer } from './tokenizer.js';

/** A word-level stand-in: whole words only, so ids show where the pre-tokenizer split. */
function withPreTokenizer(preTokenizer: object, words: string[]): Promise<Tokenizer> {
  const vocab = Object.fromEntries(['[UNK]', ...words].map((word, id) => [word, id]));
  const model = {
    type: 'WordPiece',
    unk_token: '[UNK]',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab,
  };
  return Tokenizer.fromFiles({ tokenizerJson: { model, pre_tokenizer: preTokenizer, added_tokens: [] } });
}

describe('pre-tokenizers of the JavaScript library', () => {
  it('take every Unicode number as a digit', async () => {
    const single = await withPreTokenizer({ type: 'Digits', individual_digits: true }, ['a', '½', '٣', 'Ⅷ']);
    expect([...single.encodeSync('a½٣Ⅷa')]).toEqual([1, 2, 3, 4, 1]);
    const runs = await withPreTokenizer({ type: 'Digits', individual_digits: false }, ['a', '½٣']);
    expect([...runs.encodeSync('a½٣a')]).toEqual([1, 2, 1]);
  });

  it('take words of any script as words', async () => {
    const tokenizer = await withPreTokenizer({ type: 'Whitespace' }, ['слово', '!?', 'é_1']);
    expect([...tokenizer.encodeSync('слово!? é_1')]).toEqual([1, 2, 3]);
  });

  it('set each punctuation mark apart, ASCII symbols included', async () => {
    const tokenizer = await withPreTokenizer({ type: 'Punctuation', behavior: 'Isolated' }, ['a', '!', '$', '。']);
    expect([...tokenizer.encodeSync('a!$!。a')]).toEqual([1, 2, 3, 2, 4, 1]);
  });
});
