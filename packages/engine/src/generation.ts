import { RequestAbortedError, type SequenceSampler, type TokenLogprobs } from '@qspec/core';
import type { FinishedRequest } from '@qspec/scheduler';
import { type Assembled, type AssemblerOptions, OutputAssembler } from './output-assembler.js';
import { type Completion, type FinishReason, type GenerateEvent, toSpeculationStats } from './request-output.js';

/** Who hears what becomes of a sample. Called from the round loop; must not throw and must not wait. */
export interface GenerationListener {
  onEvent(event: GenerateEvent): void;
  /** Nothing follows. */
  onError(error: unknown): void;
}

export interface GenerationOptions extends AssemblerOptions {
  readonly requestId: number;
  readonly sampler: Omit<SequenceSampler, 'history'>;
  readonly listener: GenerationListener;
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number;
}

/** One sample in the engine, from its arrival to its last event. */
export class Generation {
  readonly requestId: number;
  readonly sampler: Omit<SequenceSampler, 'history'>;
  private readonly assembler: OutputAssembler;
  private readonly startMs: number;
  private firstTokenMs: number | undefined;
  private reason: FinishReason = 'length';

  constructor(private readonly options: GenerationOptions) {
    this.requestId = options.requestId;
    this.sampler = options.sampler;
    this.assembler = new OutputAssembler(options);
    this.startMs = options.now();
  }

  /** Takes a round's tokens and emits their text. */
  take(tokens: ArrayLike<number>, numAccepted: number, logprobs?: readonly TokenLogprobs[]): Assembled {
    this.firstTokenMs ??= this.options.now();
    const assembled = this.assembler.take(tokens, numAccepted, logprobs);
    if (assembled.reason) this.reason = assembled.reason;
    for (const delta of assembled.deltas) this.options.listener.onEvent(delta);
    return assembled;
  }

  finish(finished: FinishedRequest): void {
    if (this.reason === 'length') for (const delta of this.assembler.end()) this.options.listener.onEvent(delta);
    this.options.listener.onEvent({ type: 'finish', ...this.completion(finished) });
  }

  fail(error: unknown): void {
    this.options.listener.onError(error);
  }

  abort(cause: unknown): void {
    const { text } = this.assembler;
    this.fail(
      new RequestAbortedError(
        'The request was aborted before it finished.',
        { requestId: this.requestId, text },
        cause,
      ),
    );
  }

  private completion(finished: FinishedRequest): Completion {
    const { assembler, sampler, options } = this;
    const tokenIds = Array.from(finished.tokens);
    const endMs = options.now();
    const firstMs = this.firstTokenMs ?? endMs;
    const decodeMs = endMs - firstMs;
    return {
      index: options.index,
      reason: this.reason,
      text: assembler.text,
      tokenIds,
      ...(sampler.params.logprobs === undefined ? {} : { logprobs: assembler.logprobs }),
      usage: {
        promptTokens: sampler.numPromptTokens,
        cachedTokens: finished.cachedLen,
        completionTokens: tokenIds.length,
      },
      speculation: toSpeculationStats(finished.acceptance),
      timings: {
        firstTokenMs: firstMs - this.startMs,
        decodeMs,
        totalMs: endMs - this.startMs,
        decodeTokensPerSecond: decodeMs > 0 ? ((tokenIds.length - 1) * 1000) / decodeMs : 0,
        numPreemptions: finished.numPreemptions,
      },
    };
  }
}
