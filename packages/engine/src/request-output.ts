import type { TokenLogprobs } from '@qspec/core';
import type { AcceptanceSummary } from '@qspec/scheduler';

/** `stop`: an end-of-sequence or stop token; `stop-string`: text that the request named; `length`: `maxTokens` or the context is used up. */
export type FinishReason = 'stop' | 'stop-string' | 'length';

/** New text of one sample. The texts of all deltas, concatenated, are the final text; no character ever comes in halves. */
export interface TextDelta {
  readonly type: 'text-delta';
  /** Which of the request's `n` samples. */
  readonly index: number;
  readonly text: string;
  /** Tokens since the last delta; some may show only in a later delta's text (parts of a character, a possible stop string). */
  readonly tokenIds: readonly number[];
  /** One a token: an accepted draft token (true) or the target's own (false). Tokens of one delta are of one kind where text allows. */
  readonly drafted: readonly boolean[];
  /** One a token, when the request asked for them. */
  readonly logprobs?: readonly TokenLogprobs[];
}

export interface Usage {
  readonly promptTokens: number;
  /** Prompt tokens that came from the prefix cache. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

export interface SpeculationStats {
  /** Accepted over proposed draft tokens; 0 without any. */
  readonly acceptanceRate: number;
  /** The same for the first, second, … draft token of a round. */
  readonly acceptanceByPosition: readonly number[];
  /** Tokens a speculative round gains, the target's own included; 0 without any. */
  readonly meanAcceptedLength: number;
  /** Speculative rounds. */
  readonly rounds: number;
  readonly proposedTokens: number;
  readonly acceptedTokens: number;
}

export interface Timings {
  /** From the request to its first token: queueing and prefill. */
  readonly firstTokenMs: number;
  /** From the first token to the last. */
  readonly decodeMs: number;
  readonly totalMs: number;
  /** Tokens after the first over `decodeMs`; 0 for a single token. */
  readonly decodeTokensPerSecond: number;
  readonly numPreemptions: number;
}

/** Everything about one finished sample. */
export interface Completion {
  readonly index: number;
  readonly reason: FinishReason;
  /** Special tokens and stop strings left out. */
  readonly text: string;
  /** Every emitted token, the one that ended the output included. */
  readonly tokenIds: readonly number[];
  readonly logprobs?: readonly TokenLogprobs[];
  readonly usage: Usage;
  readonly speculation: SpeculationStats;
  readonly timings: Timings;
}

export interface FinishEvent extends Completion {
  readonly type: 'finish';
}

export type GenerateEvent = TextDelta | FinishEvent;

export function toSpeculationStats(acceptance: AcceptanceSummary): SpeculationStats {
  return {
    acceptanceRate: acceptance.acceptanceRate,
    acceptanceByPosition: acceptance.positions.map((position) => position.rate),
    meanAcceptedLength: acceptance.meanAcceptedLen,
    rounds: acceptance.numRounds,
    proposedTokens: acceptance.numProposed,
    acceptedTokens: acceptance.numAccepted,
  };
}
