import type { TokenLogprobs } from '@qspec/core';
import type { FinishReason, TextDelta } from './request-output.js';
import { StopStringMatcher } from './stop-strings.js';

/** Tokens to text as they come, never half a character. */
export interface Detokenizer {
  push(id: number): string;
  flush(): string;
}

export interface AssemblerOptions {
  readonly index: number;
  readonly detokenizer: Detokenizer;
  readonly stopStrings: readonly string[];
  readonly stopTokenIds: ReadonlySet<number>;
}

/** What a sample's tokens of one round came to. */
export interface Assembled {
  readonly deltas: readonly TextDelta[];
  /** Tokens taken: all of them, or up to the one that ended the output. */
  readonly numTaken: number;
  readonly reason?: Exclude<FinishReason, 'length'>;
}

/**
 * One sample's way from tokens to text: detokenise, hold back what may become a stop string, cut at stops. Works token by token, so the text
 * does not depend on how many tokens a round brought.
 */
export class OutputAssembler {
  private readonly matcher: StopStringMatcher;
  private readonly parts: string[] = [];
  private readonly allLogprobs: TokenLogprobs[] = [];
  private pending: { tokenIds: number[]; drafted: boolean[]; logprobs: TokenLogprobs[]; text: string } = emptyPending();

  constructor(private readonly options: AssemblerOptions) {
    this.matcher = new StopStringMatcher(options.stopStrings);
  }

  /** @param numAccepted leading tokens that came from the draft. */
  take(tokens: ArrayLike<number>, numAccepted: number, logprobs?: readonly TokenLogprobs[]): Assembled {
    const deltas: TextDelta[] = [];
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]!;
      const isDrafted = i < numAccepted;
      if (this.pending.text !== '' && this.pending.drafted.at(-1) !== isDrafted) deltas.push(this.cut());
      const reason = this.takeToken(token, isDrafted, logprobs?.[i]);
      if (!reason) continue;
      if (reason === 'stop') this.pending.text += this.flushText();
      return { deltas: this.withPending(deltas), numTaken: i + 1, reason };
    }
    return { deltas: this.withPending(deltas), numTaken: tokens.length };
  }

  /** The output ended for another reason: what was held back belongs to it. */
  end(): readonly TextDelta[] {
    this.pending.text += this.flushText();
    return this.withPending([]);
  }

  /** All text handed out so far. */
  get text(): string {
    return this.parts.join('');
  }

  /** One a token taken; empty when none were asked for. */
  get logprobs(): readonly TokenLogprobs[] {
    return this.allLogprobs;
  }

  private takeToken(token: number, isDrafted: boolean, logprobs?: TokenLogprobs): 'stop' | 'stop-string' | undefined {
    this.pending.tokenIds.push(token);
    this.pending.drafted.push(isDrafted);
    if (logprobs) {
      this.pending.logprobs.push(logprobs);
      this.allLogprobs.push(logprobs);
    }
    if (this.options.stopTokenIds.has(token)) return 'stop';
    const check = this.matcher.push(this.options.detokenizer.push(token));
    this.pending.text += check.text;
    return check.stopString === undefined ? undefined : 'stop-string';
  }

  private flushText(): string {
    const check = this.matcher.push(this.options.detokenizer.flush());
    return check.stopString === undefined ? check.text + this.matcher.flush() : check.text;
  }

  private withPending(deltas: TextDelta[]): TextDelta[] {
    if (this.pending.text !== '') deltas.push(this.cut());
    return deltas;
  }

  private cut(): TextDelta {
    const { tokenIds, drafted, logprobs, text } = this.pending;
    this.pending = emptyPending();
    this.parts.push(text);
    const delta = { type: 'text-delta', index: this.options.index, text, tokenIds, drafted } as const;
    return logprobs.length > 0 ? { ...delta, logprobs } : delta;
  }
}

function emptyPending() {
  return { tokenIds: [], drafted: [], logprobs: [], text: '' };
}
