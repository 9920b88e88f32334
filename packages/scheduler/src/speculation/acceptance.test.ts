import { InvariantError } from '@qspec/core';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AcceptanceStats } from './acceptance.js';

describe('AcceptanceStats', () => {
  it('counts by position', () => {
    const stats = new AcceptanceStats();
    stats.record(3, 3);
    stats.record(3, 1);
    stats.record(1, 0);
    stats.record(0, 0);
    const { positions, ...summary } = stats.summary();
    expect(summary).toEqual({
      numRounds: 3,
      numProposed: 7,
      numAccepted: 4,
      acceptanceRate: 4 / 7,
      meanAcceptedLen: 1 + 4 / 3,
    });
    expect(positions.map(({ numProposed, numReached, numAccepted }) => [numProposed, numReached, numAccepted])).toEqual(
      [
        [3, 3, 2],
        [2, 2, 1],
        [2, 1, 1],
      ],
    );
    expect(positions[2]).toMatchObject({ position: 2, rate: 0.5, conditionalRate: 1 });
  });

  it('agrees with a recount of the rounds', () => {
    const round = fc.nat(8).chain((gamma) => fc.tuple(fc.constant(gamma), fc.nat(gamma)));
    fc.assert(
      fc.property(fc.array(round), (rounds) => {
        const stats = new AcceptanceStats();
        for (const [gamma, numAccepted] of rounds) stats.record(gamma, numAccepted);
        const { positions, numAccepted } = stats.summary();
        expect(numAccepted).toBe(rounds.reduce((total, [, accepted]) => total + accepted, 0));
        positions.forEach((each, position) => {
          expect(each.numProposed).toBe(rounds.filter(([gamma]) => gamma > position).length);
          expect(each.numAccepted).toBe(rounds.filter(([, accepted]) => accepted > position).length);
        });
      }),
    );
  });

  it('is all zeros before any round, and refuses impossible counts', () => {
    const stats = new AcceptanceStats();
    expect(stats.summary()).toMatchObject({ acceptanceRate: 0, meanAcceptedLen: 0, positions: [] });
    for (const numAccepted of [-1, 3, 0.5, Number.NaN])
      expect(() => stats.record(2, numAccepted)).toThrow(InvariantError);
  });
});
