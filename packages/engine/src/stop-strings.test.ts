import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopStringMatcher } from './stop-strings.js';

/** Text before the stop string that is complete first; on a tie the one that began earlier. */
function truth(text: string, stops: string[]): string {
  for (let end = 1; end <= text.length; end++) {
    const starts = stops.filter((stop) => text.slice(0, end).endsWith(stop)).map((stop) => end - stop.length);
    if (starts.length > 0) return text.slice(0, Math.min(...starts));
  }
  return text;
}

function run(pieces: string[], stops: string[]): string {
  const matcher = new StopStringMatcher(stops);
  let out = '';
  for (const piece of pieces) {
    const check = matcher.push(piece);
    out += check.text;
    if (check.stopString !== undefined) return out;
  }
  return out + matcher.flush();
}

describe('StopStringMatcher', () => {
  it('holds back what may become a stop string and lets it go when it does not', () => {
    const matcher = new StopStringMatcher(['\n\nUser:']);
    expect(matcher.push('yes\n').text).toBe('yes');
    expect(matcher.push('\nUs').text).toBe('');
    expect(matcher.push('ual').text).toBe('\n\nUsual');
  });

  it('ends exactly before the stop string and names it', () => {
    const matcher = new StopStringMatcher(['END', 'stop']);
    expect(matcher.push('abcE')).toEqual({ text: 'abc' });
    expect(matcher.push('NDxyz')).toEqual({ text: '', stopString: 'END' });
  });

  it('gives held text back at the end of the output', () => {
    const matcher = new StopStringMatcher(['##']);
    matcher.push('a#');
    expect(matcher.flush()).toBe('#');
  });

  it('ends before the stop string that is complete first, whether text comes whole or letter by letter', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 24 });
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 }), {
      maxLength: 3,
    });
    fc.assert(
      fc.property(letters, stops, (text, list) => {
        expect(run([...text], list)).toBe(truth(text, list));
        expect(run([text], list)).toBe(truth(text, list));
      }),
    );
  });

  it('never shows any part of a stop string and loses nothing without one, however it was cut', () => {
    const pieces = fc.array(fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 5 }), { maxLength: 8 });
    fc.assert(
      fc.property(pieces, fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 4 }), (list, stop) => {
        const text = list.join('');
        const index = text.indexOf(stop);
        expect(run(list, [stop])).toBe(index < 0 ? text : text.slice(0, index));
      }),
    );
  });
});
