import type { EntryResult, ScheduledBatch, ScheduledEntry } from './scheduled-batch.js';

/** How long passes over a batch take, in milliseconds, and how often drafts are right. */
export interface SyntheticDeviceOptions {
  /** One forward pass of the target over `numRows` rows. */
  readonly targetMs: (numRows: number) => number;
  /** One step of the draft over `numSequences` sequences. */
  readonly draftMs: (numSequences: number) => number;
  /** Chance from 0 to 1 that a draft token is right, given that those before it were. */
  readonly acceptance: number;
  /** Random stream. Default 0. */
  readonly seed?: number;
}

/**
 * A device that takes time but computes nothing. The token at a position is a function of (request, position), as exactness demands of a real
 * one, so a wrong position, a lost or a doubled token shows.
 */
export class SyntheticDevice {
  readonly #options: SyntheticDeviceOptions;
  #state: number;

  constructor(options: SyntheticDeviceOptions) {
    this.#options = options;
    this.#state = options.seed ?? 0;
  }

  /** The one right token of a request at a position, in [0, 32768). */
  static tokenAt(requestId: number, position: number): number {
    return mix(Math.imul(requestId + 1, 0x9e3779b1) ^ mix(position)) >>> 17;
  }

  /** Results in the order of the entries, and how long the round took: max γ draft steps, one target pass over all rows. */
  run(batch: ScheduledBatch): { readonly results: EntryResult[]; readonly elapsedMs: number } {
    const { targetMs, draftMs } = this.#options;
    let elapsedMs = targetMs(batch.numRows);
    const maxGamma = Math.max(...batch.entries.map((entry) => entry.gamma));
    for (let step = 0; step < maxGamma; step++) {
      elapsedMs += draftMs(batch.entries.filter((entry) => entry.gamma > step).length);
    }
    return { results: batch.entries.map((entry) => this.#runEntry(entry)), elapsedMs };
  }

  #runEntry(entry: ScheduledEntry): EntryResult {
    if (!entry.emit) return { tokens: [], numAccepted: 0 };
    let numAccepted = 0;
    while (numAccepted < entry.gamma && this.#random() < this.#options.acceptance) numAccepted += 1;
    const first = entry.startPosition + entry.numInputs;
    const tokens = Array.from({ length: numAccepted + 1 }, (_, i) =>
      SyntheticDevice.tokenAt(entry.requestId, first + i),
    );
    return { tokens, numAccepted };
  }

  /** In [0, 1). */
  #random(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    return (mix(this.#state) >>> 0) / 2 ** 32;
  }
}

function mix(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}
