import { ConfigError, ContextLengthError, DisposedError, type ExecutionMode, RequestAbortedError } from '@qspec/core';
import type { KvCacheStats } from '@qspec/kv-cache';
import type { SchedulerStats } from '@qspec/scheduler';
import type { Tokenizer } from '@qspec/tokenizer';
import { type LlmOptions, type ResolvedLlmOptions, resolveLlmOptions } from './config.js';
import { EventQueue } from './event-queue.js';
import { Generation } from './generation.js';
import { Model, type ModelOptions } from './model.js';
import { createPipeline, type Pipeline } from './pipeline.js';
import { type GenerateRequest, type ResolvedRequest, resolveRequest } from './request.js';
import type { Completion, GenerateEvent } from './request-output.js';
import {
  type PerplexityOptions,
  type PerplexityResult,
  type ScoreOptions,
  scoreSequence,
  windowedPerplexity,
} from './scoring.js';

/** The first sample, and all of them in `completions`. */
export interface GenerateResult extends Completion {
  readonly completions: readonly Completion[];
}

export interface LlmStats {
  readonly target: ExecutionMode;
  readonly draft: ExecutionMode | undefined;
  readonly gamma: number;
  readonly maxContext: number;
  readonly weightBytes: number;
  readonly kvBytes: number;
  readonly scratchBytes: number;
  readonly scheduler: SchedulerStats;
  readonly kvCache: KvCacheStats;
}

/**
 * A model ready to generate. Requests may be made at any time and in any number: they run as one continuous batch.
 * Speculation never shows in the text: the same request gives the same tokens with any draft and any γ.
 */
export class LLM implements AsyncDisposable {
  private nextId = 0;
  private closing: Promise<void> | undefined;
  private encodeTurn: Promise<void> = Promise.resolve();
  private readonly eosTokenIds: readonly number[];

  private constructor(
    readonly model: Model,
    private readonly options: ResolvedLlmOptions,
    private readonly pipeline: Pipeline,
    private readonly ownsModel: boolean,
  ) {
    this.eosTokenIds = [...new Set([...model.config.eosTokenIds, ...(model.tokenizer?.eosTokenIds ?? [])])];
  }

  /**
   * Loads a checkpoint (Hugging Face folder, artifact or GGUF file) and makes it ready.
   * @throws CheckpointError, UnsupportedFormatError, ShapeMismatchError, ConfigError, OutOfMemoryError, DeviceError, KernelLoadError;
   *   nothing stays allocated then.
   */
  static async load(path: string, options: ModelOptions & LlmOptions = {}): Promise<LLM> {
    const model = await Model.load(path, options);
    try {
      return await LLM.build(model, options, true);
    } catch (error) {
      await model.close();
      throw error;
    }
  }

  /** Another way to run weights that are loaded already; the model stays the caller's. @throws ConfigError, UnsupportedFormatError, OutOfMemoryError */
  static create(model: Model, options: LlmOptions = {}): Promise<LLM> {
    return LLM.build(model, options, false);
  }

  private static async build(model: Model, options: LlmOptions, ownsModel: boolean): Promise<LLM> {
    const resolved = resolveLlmOptions(options, model.weightKind, model.backend.name);
    return new LLM(model, resolved, await createPipeline(model.backend, model.resident, resolved), ownsModel);
  }

  /** @throws ConfigError when the model came without one. */
  get tokenizer(): Tokenizer {
    if (this.model.tokenizer) return this.model.tokenizer;
    throw new ConfigError(
      `Expected tokenizer.json beside ${this.model.path} but there is none. Give \`tokenizer\`, or requests with \`tokens\`.`,
      { option: 'tokenizer' },
    );
  }

  /** Longest sequence in tokens, prompt and output together. */
  get maxContext(): number {
    return this.pipeline.memory.maxContext;
  }

  /** Waits for all of a request. Errors as {@link stream}. */
  async generate(request: GenerateRequest): Promise<GenerateResult> {
    const completions: Completion[] = [];
    for await (const event of this.stream(request)) {
      if (event.type !== 'finish') continue;
      const { type: _, ...completion } = event;
      completions[event.index] = completion;
    }
    return { ...completions[0]!, completions };
  }

  /**
   * A request's text as it comes; for each sample one `finish` event at its end. Work begins with the first `next()`; leaving the loop
   * early aborts the request.
   * @throws ConfigError, ContextLengthError, KvCacheExhaustedError, RequestAbortedError, DisposedError; from the iterator.
   */
  async *stream(request: GenerateRequest): AsyncGenerator<GenerateEvent, void, undefined> {
    this.expectOpen();
    const resolved = resolveRequest(request, this.eosTokenIds);
    expectNotAborted(resolved.signal);
    const promptTokens = await this.encodePrompt(request);
    this.expectOpen();
    expectNotAborted(resolved.signal);
    const queue = new EventQueue<GenerateEvent>();
    const requestIds: number[] = [];
    const abort = () => {
      for (const requestId of requestIds) this.pipeline.engine.abort(requestId, resolved.signal?.reason);
    };
    resolved.signal?.addEventListener('abort', abort, { once: true });
    try {
      for (let index = 0; index < resolved.n; index++) {
        requestIds.push(this.submit(resolved, promptTokens, index, queue));
      }
      let numUnfinished = resolved.n;
      for await (const event of queue) {
        yield event;
        if (event.type === 'finish' && --numUnfinished === 0) return;
      }
    } finally {
      resolved.signal?.removeEventListener('abort', abort);
      abort();
    }
  }

  /** Natural log-probability of each token after the first, given those before it: [tokens.length - 1]. */
  async scoreTokens(tokens: ArrayLike<number>, options: ScoreOptions = {}): Promise<Float64Array> {
    this.expectOpen();
    const ids = this.checkTokens(tokens);
    if (ids.length > this.maxContext + 1) throw this.tooLong(ids.length);
    if (options.program === 'draft' && !this.options.draft) {
      throw new ConfigError('Expected a draft to score with but this model runs without. Load it with `draft`.', {
        option: 'program',
      });
    }
    const { engine, kvCache, maxLogitRows: maxRows } = this.pipeline;
    return engine.exclusive((session) => scoreSequence({ session, kvCache, maxRows }, this.nextId++, ids, options));
  }

  /** Perplexity of a text (no special tokens are added) or of tokens. */
  async perplexity(text: string | ArrayLike<number>, options: PerplexityOptions = {}): Promise<PerplexityResult> {
    this.expectOpen();
    const tokens = typeof text === 'string' ? await this.tokenizer.encode(text, { addSpecialTokens: false }) : text;
    const windowLen = options.windowLen ?? Math.min(this.maxContext, 1024);
    return windowedPerplexity(Int32Array.from(tokens), windowLen, options, (window) =>
      this.scoreTokens(window, options),
    );
  }

  stats(): LlmStats {
    const { scheduler, kvCache, session } = this.pipeline;
    const { target, draft, gamma } = this.options;
    return {
      target,
      draft,
      gamma,
      maxContext: this.maxContext,
      weightBytes: this.model.backend.residentBytes,
      kvBytes: session.kvBytes,
      scratchBytes: session.scratchBytes,
      scheduler: scheduler.stats,
      kvCache: kvCache.stats,
    };
  }

  /** Aborts what runs, waits for the round in flight and frees everything. Idempotent. */
  close(): Promise<void> {
    this.closing ??= this.shutDown();
    return this.closing;
  }

  private async shutDown(): Promise<void> {
    await this.pipeline.engine.close();
    this.pipeline.session.dispose();
    if (this.ownsModel) await this.model.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private submit(
    request: ResolvedRequest,
    promptTokens: Int32Array,
    index: number,
    queue: EventQueue<GenerateEvent>,
  ): number {
    const generation = new Generation({
      requestId: this.nextId++,
      index,
      sampler: { params: request.sampling, stream: index, numPromptTokens: promptTokens.length },
      detokenizer: this.model.tokenizer?.createDetokenizer() ?? NO_TEXT,
      stopStrings: request.stopStrings,
      stopTokenIds: request.stopTokenIds,
      listener: { onEvent: (event) => queue.push(event), onError: (error) => queue.fail(error) },
      now: () => performance.now(),
    });
    this.pipeline.engine.add(generation, {
      promptTokens,
      maxTokens: request.maxTokens ?? this.maxContext,
      ...(request.maxGamma === undefined ? {} : { maxGamma: request.maxGamma }),
    });
    return generation.requestId;
  }

  private async encodePrompt(request: GenerateRequest): Promise<Int32Array> {
    const tokens = this.checkTokens(await this.promptTokens(request));
    if (tokens.length >= this.maxContext) throw this.tooLong(tokens.length);
    return tokens;
  }

  private async promptTokens(request: GenerateRequest): Promise<ArrayLike<number>> {
    if (request.tokens) return request.tokens;
    await this.nextEncodeTurn();
    if (request.prompt !== undefined) return this.tokenizer.encode(request.prompt);
    return this.tokenizer.encodeChat(request.messages!, {
      addGenerationPrompt: true,
      ...(request.tools ? { tools: request.tools } : {}),
      ...(request.templateVariables ? { variables: request.templateVariables } : {}),
    });
  }

  /** Many requests at once encode their prompts in turns of the event loop of their own. */
  private nextEncodeTurn(): Promise<void> {
    this.encodeTurn = this.encodeTurn.then(() => new Promise((resolve) => setImmediate(resolve)));
    return this.encodeTurn;
  }

  private checkTokens(tokens: ArrayLike<number>): Int32Array {
    const { vocabSize } = this.model.config;
    for (let i = 0; i < tokens.length; i++) {
      const id = tokens[i]!;
      if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
      throw new ConfigError(
        `Expected \`tokens[${i}]\` to be an integer from 0 to ${vocabSize - 1} but received ${String(id)}.`,
        { option: 'tokens', index: i, received: id },
      );
    }
    return Int32Array.from(tokens);
  }

  private tooLong(numTokens: number): ContextLengthError {
    const { maxContext } = this;
    return new ContextLengthError(
      `Expected fewer than ${maxContext} tokens but received ${numTokens}. Shorten the prompt or raise \`maxContext\` (the model was made for ${this.model.config.maxPositionEmbeddings}).`,
      { numTokens, maxContext },
    );
  }

  private expectOpen(): void {
    if (this.closing) throw new DisposedError('Expected an open model but it was closed. Load it again.');
  }
}

/** Without a tokenizer there are tokens only. */
const NO_TEXT = { push: () => '', flush: () => '' };

function expectNotAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new RequestAbortedError('The request was aborted before it began.', {}, signal.reason);
}
