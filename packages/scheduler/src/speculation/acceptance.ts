import { InvariantError } from '@qspec/core';

/** Acceptance of drafts at one position of a round (0 = first draft token). */
export interface PositionAcceptance {
  readonly position: number;
  /** Rounds that drafted this far. */
  readonly numProposed: number;
  /** Rounds that drafted this far and accepted everything before. */
  readonly numReached: number;
  /** Rounds that accepted this draft token (and so everything before it). */
  readonly numAccepted: number;
  /** numAccepted / numProposed; 0 before any. */
  readonly rate: number;
  /** numAccepted / numReached: acceptance given that the context was right; 0 before any. */
  readonly conditionalRate: number;
}

export interface AcceptanceSummary {
  /** Rounds with γ > 0. */
  readonly numRounds: number;
  readonly numProposed: number;
  readonly numAccepted: number;
  /** Accepted over proposed draft tokens; 0 before any. */
  readonly acceptanceRate: number;
  /** Tokens a round gains, the target's own included: 1 + numAccepted / numRounds; 0 before any. */
  readonly meanAcceptedLen: number;
  readonly positions: readonly PositionAcceptance[];
}

/** Counts how far drafts were right. Rounds with γ = 0 say nothing and are left out. */
export class AcceptanceStats {
  readonly #proposed: number[] = [];
  readonly #reached: number[] = [];
  readonly #accepted: number[] = [];
  #numRounds = 0;

  /** @throws InvariantError unless 0 ≤ numAccepted ≤ gamma. */
  record(gamma: number, numAccepted: number): void {
    if (!(Number.isInteger(numAccepted) && numAccepted >= 0 && numAccepted <= gamma)) {
      throw new InvariantError(
        `Expected 0 to ${gamma} accepted draft tokens but received ${numAccepted}. Please report this.`,
        {
          gamma,
          numAccepted,
        },
      );
    }
    if (gamma === 0) return;
    this.#numRounds += 1;
    for (let position = 0; position < gamma; position++) {
      increment(this.#proposed, position, 1);
      increment(this.#reached, position, numAccepted >= position ? 1 : 0);
      increment(this.#accepted, position, numAccepted > position ? 1 : 0);
    }
  }

  get numRounds(): number {
    return this.#numRounds;
  }

  get numProposed(): number {
    return sum(this.#proposed);
  }

  get numAccepted(): number {
    return sum(this.#accepted);
  }

  summary(): AcceptanceSummary {
    const { numRounds, numProposed, numAccepted } = this;
    return {
      numRounds,
      numProposed,
      numAccepted,
      acceptanceRate: ratio(numAccepted, numProposed),
      meanAcceptedLen: numRounds === 0 ? 0 : 1 + numAccepted / numRounds,
      positions: this.#proposed.map((proposed, position) => {
        const reached = this.#reached[position]!;
        const accepted = this.#accepted[position]!;
        return {
          position,
          numProposed: proposed,
          numReached: reached,
          numAccepted: accepted,
          rate: ratio(accepted, proposed),
          conditionalRate: ratio(accepted, reached),
        };
      }),
    };
  }
}

function increment(counts: number[], position: number, amount: number): void {
  counts[position] = (counts[position] ?? 0) + amount;
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
