import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { CutFinder } from '../src/cut-finder.js';
import type { Tokenizer } from '../src/index.js';
import { JsBackend } from '../src/js-backend.js';
import { forJsLibrary } from '../src/js-definition.js';
import { parseTokenizerDefinition } from '../src/tokenizer-definition.js';
import { WINDOW, windowIds, windowsOf } from '../src/window-encoder.js';
import { folderOf, loadTokenizer, SMALL } from './support.js';
import { mixedText, pieceOfText } from './texts.js';

const NAMES = ['tally-10m', ...SMALL, 'qwen3'] as const;

describe.each(NAMES)('windows of %s', (name) => {
  let tokenizer: Tokenizer;
  let whole: JsBackend;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(name);
    whole = wholeTextBackend(name);
  });

  it('give the ids of the whole text at every cut', () => {
    const cuts = new CutFinder(definitionOf(name), (token) => tokenizer.tokenToId(token) !== undefined, whole);
    fc.assert(
      fc.property(fc.array(pieceOfText(), { minLength: 1, maxLength: 60 }), (pieces) => {
        const text = pieces.join('');
        const windowed: number[] = [];
        for (const window of windowsOf(text, cuts, () => 40)) {
          if (window === undefined) continue;
          const ids = windowIds(whole.encode(window.context + window.text), whole.encode(window.context));
          expect(ids).toBeDefined();
          windowed.push(...Array.from(ids as ArrayLike<number>));
        }
        expect(windowed).toEqual(whole.encode(text));
      }),
      { numRuns: 60 },
    );
  });

  it('encode a long text as the whole at once', async () => {
    const text = mixedText(8 * WINDOW);
    const expected = whole.encode(text);
    expect([...(await tokenizer.encode(text, { addSpecialTokens: false }))]).toEqual(expected);
    expect([...tokenizer.encodeSync(text, { addSpecialTokens: false })]).toEqual(expected);
  });
});

function definitionOf(name: string) {
  const path =
    name === 'tally-10m' || name === 'qwen3'
      ? join(folderOf(name), 'tokenizer.json')
      : new URL(`./vectors/small/${name}.json`, import.meta.url);
  return parseTokenizerDefinition(readFileSync(path, 'utf8'), name);
}

function wholeTextBackend(name: string): JsBackend {
  return new JsBackend(forJsLibrary(definitionOf(name)), name);
}
