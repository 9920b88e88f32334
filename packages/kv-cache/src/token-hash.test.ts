import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hashNamespace, hashTokens } from './token-hash.js';

describe('hashTokens', () => {
  it('is a non-negative safe integer that depends on what came before', () => {
    const ids = fc.array(fc.nat(2 ** 31 - 1), { minLength: 1, maxLength: 64 });
    fc.assert(
      fc.property(ids, (tokens) => {
        const hash = hashTokens(0, tokens, 0, tokens.length);
        expect(Number.isSafeInteger(hash) && hash >= 0).toBe(true);
        expect(hashTokens(hash, tokens, 0, tokens.length)).not.toBe(hash);
        expect(hashTokens(0, Int32Array.from([9, ...tokens]), 1, tokens.length)).toBe(hash);
      }),
    );
  });

  it('has no collision among 200,000 similar pages', () => {
    const seen = new Set<number>();
    const tokens = new Int32Array(16);
    for (let i = 0; i < 200_000; i++) {
      tokens[i % 16] = i;
      seen.add(hashTokens(0, tokens, 0, 16));
    }
    // Each step changes one token, so all pages differ.
    expect(seen.size).toBe(200_000);
  });

  it('starts each namespace elsewhere', () => {
    const names = ['', 'a', 'b', 'ab', 'ba', '𝄞', 'model@1', 'model@2'];
    expect(new Set(names.map(hashNamespace)).size).toBe(names.length);
  });
});
