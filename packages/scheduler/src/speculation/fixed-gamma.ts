import { expectInteger } from '@qspec/core';
import type { Drafter } from './drafter.js';

/** Most draft tokens a round that make any sense; guards against typing errors. */
export const MAX_GAMMA = 64;

/** The same γ for every request and round; 0 is plain decoding. */
export class FixedGamma implements Drafter {
  readonly name: string;
  readonly #gamma: number;

  /** @throws ConfigError unless `gamma` is an integer from 0 to {@link MAX_GAMMA}. */
  constructor(gamma: number) {
    expectInteger('gamma', gamma, 0, MAX_GAMMA);
    this.name = `fixed γ = ${gamma}`;
    this.#gamma = gamma;
  }

  gammaFor(): number {
    return this.#gamma;
  }
}
