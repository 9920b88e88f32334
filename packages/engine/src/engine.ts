import { DisposedError, InvariantError, type KvAllocator, type RoundResult, type Session } from '@qspec/core';
import type { EntryResult, NewRequest, ScheduledBatch, Scheduler } from '@qspec/scheduler';
import type { Generation } from './generation.js';
import { encodeRound } from './round-batch.js';

export interface EngineOptions {
  readonly scheduler: Scheduler;
  readonly kvCache: KvAllocator;
  /** Borrowed: the caller disposes it after {@link Engine.close}. */
  readonly session: Session;
}

/** The round loop: runs while there is work, rests when there is none. */
export class Engine {
  private readonly generations = new Map<number, Generation>();
  private readonly tasks: { run: () => Promise<void>; reject: (error: unknown) => void }[] = [];
  private loop: Promise<void> | undefined;
  private isClosed = false;

  constructor(private readonly options: EngineOptions) {}

  /** Queues a sample; its listener hears the rest. @throws ConfigError, ContextLengthError, KvCacheExhaustedError, DisposedError; then nothing is queued. */
  add(generation: Generation, request: Omit<NewRequest, 'requestId'>): void {
    this.expectOpen();
    this.options.scheduler.add({ ...request, requestId: generation.requestId });
    this.generations.set(generation.requestId, generation);
    this.wake();
  }

  /** Ends a sample between two rounds and frees its pages; its listener gets a RequestAbortedError at once. */
  abort(requestId: number, cause?: unknown): void {
    const generation = this.generations.get(requestId);
    if (!generation) return;
    this.generations.delete(requestId);
    this.options.scheduler.abort(requestId);
    generation.abort(cause);
  }

  /** Runs `task` with the session to itself, between two rounds. */
  exclusive<T>(task: (session: Session) => Promise<T>): Promise<T> {
    this.expectOpen();
    return new Promise<T>((resolve, reject) => {
      this.tasks.push({ run: () => task(this.options.session).then(resolve, reject), reject });
      this.wake();
    });
  }

  /** Aborts what is unfinished and waits for the round in flight. Idempotent. */
  async close(): Promise<void> {
    this.isClosed = true;
    const cause = new DisposedError('The engine was closed while the request was running.');
    for (const requestId of [...this.generations.keys()]) this.abort(requestId, cause);
    await this.loop;
  }

  private wake(): void {
    this.loop ??= this.run();
  }

  private async run(): Promise<void> {
    await Promise.resolve(); // whoever called `add` gets its handle first
    try {
      while (this.options.scheduler.hasWork || this.tasks.length > 0) {
        for (const task of this.tasks.splice(0)) await task.run();
        await this.round();
      }
    } catch (error) {
      this.breakDown(error);
    }
    this.loop = undefined;
  }

  /** A bug: the bookkeeping can't be trusted any more. Everyone hears it, nothing new is taken. */
  private breakDown(error: unknown): void {
    this.isClosed = true;
    for (const requestId of [...this.generations.keys()]) this.take(requestId)?.fail(error);
    for (const task of this.tasks.splice(0)) task.reject(error);
  }

  /** Draft, verify, accept: one native call. The text is out before the next round begins. */
  private async round(): Promise<void> {
    const { scheduler, kvCache, session } = this.options;
    const batch = scheduler.schedule();
    const failures = scheduler.takeFailures();
    for (const { requestId, error } of failures) this.take(requestId)?.fail(error);
    if (!batch && failures.length === 0 && scheduler.hasWork) {
      throw new InvariantError('Expected a batch while requests are waiting. Please report this.', {
        ...scheduler.stats,
      });
    }
    if (!batch) return;
    let result: RoundResult;
    try {
      result = await session.round(encodeRound(batch, kvCache, (requestId) => this.samplerSource(requestId)));
    } catch (error) {
      this.failAll(batch, error);
      return;
    }
    const results = batch.entries.map((entry, i) => this.deliver(entry.requestId, result, i));
    for (const finished of scheduler.complete(batch, results)) this.take(finished.requestId)?.finish(finished);
  }

  private samplerSource(requestId: number) {
    const { sampler } = this.generations.get(requestId)!;
    return { sampler, tokens: () => this.options.scheduler.tokensOf(requestId) };
  }

  private deliver(requestId: number, result: RoundResult, index: number): EntryResult {
    const tokens = result.tokens.subarray(result.tokenOffsets[index], result.tokenOffsets[index + 1]);
    const numAccepted = result.numAccepted[index]!;
    const generation = this.generations.get(requestId); // gone when it was aborted meanwhile
    if (!generation || tokens.length === 0) return { tokens, numAccepted };
    const { numTaken, reason } = generation.take(tokens, numAccepted, result.logprobs[index]);
    return { tokens: tokens.subarray(0, numTaken), numAccepted, finished: reason !== undefined };
  }

  /** The device refused or failed: whoever was in the batch hears why, the others go on. */
  private failAll(batch: ScheduledBatch, error: unknown): void {
    this.options.scheduler.discard(batch);
    for (const { requestId } of batch.entries) {
      this.options.scheduler.abort(requestId);
      this.take(requestId)?.fail(error);
    }
  }

  private take(requestId: number): Generation | undefined {
    const generation = this.generations.get(requestId);
    this.generations.delete(requestId);
    return generation;
  }

  private expectOpen(): void {
    if (this.isClosed) throw new DisposedError('Expected an open engine but it was closed. Load the model again.');
  }
}
