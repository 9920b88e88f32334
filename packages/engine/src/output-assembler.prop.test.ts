import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OutputAssembler } from './output-assembler.js';
import type { TextDelta } from './request-output.js';

/** Tokens 0-2 are letters; 3 and 4 are halves of one character, which shows when the second has come. */
function halves() {
  let isHalf = false;
  return {
    push(id: number): string {
      if (id === 3) {
        isHalf = true;
        return '';
      }
      const text = id === 4 ? (isHalf ? 'é' : '') : 'abc'[id]!;
      isHalf = false;
      return text;
    },
    flush: () => (isHalf ? '\uFFFD' : ''),
  };
}

function play(rounds: { tokens: number[]; numAccepted: number }[], stopStrings: string[], stopTokenIds: number[]) {
  const assembler = new OutputAssembler({
    index: 0,
    detokenizer: halves(),
    stopStrings,
    stopTokenIds: new Set(stopTokenIds),
  });
  const deltas: TextDelta[] = [];
  const taken: number[] = [];
  for (const { tokens, numAccepted } of rounds) {
    const assembled = assembler.take(tokens, numAccepted);
    deltas.push(...assembled.deltas);
    taken.push(...tokens.slice(0, assembled.numTaken));
    if (assembled.reason) return { deltas, taken, reason: assembled.reason, text: assembler.text };
  }
  deltas.push(...assembler.end());
  return { deltas, taken, reason: undefined, text: assembler.text };
}

const token = fc.integer({ min: 0, max: 4 });
const round = fc
  .array(token, { minLength: 1, maxLength: 6 })
  .chain((tokens) => fc.record({ tokens: fc.constant(tokens), numAccepted: fc.nat({ max: tokens.length - 1 }) }));
const stopString = fc.string({ unit: fc.constantFrom('a', 'b', 'é'), minLength: 1, maxLength: 3 });

describe('OutputAssembler', () => {
  it('gives the same text, tokens and reason however many tokens a round brings', () => {
    fc.assert(
      fc.property(
        fc.array(round),
        fc.array(stopString, { maxLength: 2 }),
        fc.array(token, { maxLength: 1 }),
        (rounds, stops, ids) => {
          const single = rounds.flatMap(({ tokens }) => tokens.map((id) => ({ tokens: [id], numAccepted: 0 })));
          const { text, taken, reason } = play(rounds, stops, ids);
          expect({ text, taken, reason }).toEqual((({ deltas: _, ...rest }) => rest)(play(single, stops, ids)));
        },
      ),
    );
  });

  it('emits deltas that add up to the text and flag each token once, in order', () => {
    fc.assert(
      fc.property(fc.array(round), fc.array(stopString, { maxLength: 2 }), (rounds, stops) => {
        const { deltas, text, taken } = play(rounds, stops, []);
        expect(deltas.map((delta) => delta.text).join('')).toBe(text);
        expect(deltas.every((delta) => delta.text !== '' && delta.drafted.length === delta.tokenIds.length)).toBe(true);
        const shown = deltas.flatMap((delta) => delta.tokenIds);
        expect(shown).toEqual(taken.slice(0, shown.length));
        const flags = rounds.flatMap(({ tokens, numAccepted }) => tokens.map((_, i) => i < numAccepted));
        expect(deltas.flatMap((delta) => delta.drafted)).toEqual(flags.slice(0, shown.length));
      }),
    );
  });

  it('never shows a stop string', () => {
    fc.assert(
      fc.property(fc.array(round), stopString, (rounds, stop) => {
        expect(play(rounds, [stop], []).text).not.toContain(stop);
      }),
    );
  });
});
