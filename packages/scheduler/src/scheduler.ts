import { ConfigError, InvariantError } from '@qspec/core';
import { Admission } from './admission.js';
import { DecodeSet } from './decode-set.js';
import { PrefillQueue } from './prefill-queue.js';
import { RequestState } from './request-state.js';
import { RoundPlanner } from './round-planner.js';
import type { EntryResult, FailedRequest, FinishedRequest, ScheduledBatch, ScheduledEntry } from './scheduled-batch.js';
import {
  checkRequest,
  exhausted,
  type NewRequest,
  type ResolvedSchedulerOptions,
  resolveSchedulerOptions,
  type SchedulerOptions,
} from './scheduler-options.js';
import { AcceptanceStats, type AcceptanceSummary } from './speculation/acceptance.js';
import { MAX_GAMMA } from './speculation/fixed-gamma.js';

/** Queue lengths now, counters since construction. */
export interface SchedulerStats {
  readonly numWaiting: number;
  readonly numPrefilling: number;
  readonly numDecoding: number;
  readonly numPreemptions: number;
  readonly numFinished: number;
  readonly numAborted: number;
  readonly numFailed: number;
  /** Over all requests. */
  readonly acceptance: AcceptanceSummary;
}

/**
 * Continuous batching: who computes what in each round. Plain numbers in, decisions out.
 *
 * Use: `add` requests at any time; `schedule` a batch, run it, `complete` it; drain `takeFailures` after `schedule`. One batch at a time.
 * Order: decoding requests each get their row, pending prefill a quarter of the budget at least, speculation what is left, prefill the rest.
 * Fairness: pages and prefill go by order of arrival; the most recent arrival is preempted first.
 */
export class Scheduler {
  readonly #options: ResolvedSchedulerOptions;
  readonly #requests = new Map<number, RequestState>();
  readonly #waiting = new PrefillQueue();
  readonly #running = new DecodeSet();
  readonly #admission: Admission;
  readonly #acceptance = new AcceptanceStats();
  readonly #planner: RoundPlanner;
  #inFlight: ScheduledBatch | undefined;
  readonly #abortedInFlight = new Set<number>();
  #failures: FailedRequest[] = [];
  #numArrivals = 0;
  readonly #counts = { preemptions: 0, finished: 0, aborted: 0, failed: 0 };

  /** @throws ConfigError */
  constructor(options: SchedulerOptions) {
    this.#options = resolveSchedulerOptions(options);
    this.#admission = new Admission(this.#options.allocator);
    this.#planner = new RoundPlanner(
      this.#options,
      { waiting: this.#waiting, running: this.#running, admission: this.#admission },
      { preempt: (request) => this.#preempt(request), fail: (request) => this.#fail(request) },
    );
  }

  /** Queues a request. @throws ConfigError, ContextLengthError, KvCacheExhaustedError (the prompt alone exceeds the pool); then nothing is queued. */
  add(request: NewRequest): void {
    checkRequest(request, this.#options);
    const { requestId, promptTokens, maxTokens, maxGamma = MAX_GAMMA } = request;
    if (this.#requests.has(requestId)) {
      throw new ConfigError(`Expected \`requestId\` to be unused but request ${requestId} is not finished.`, {
        option: 'requestId',
        requestId,
      });
    }
    const maxEmitted = Math.min(maxTokens, this.#options.maxSequenceLen - promptTokens.length);
    const state = new RequestState(requestId, this.#numArrivals++, promptTokens, maxEmitted, maxGamma);
    this.#requests.set(requestId, state);
    this.#waiting.insert(state);
  }

  /** Ends a request wherever it stands; if it is in the batch in flight, when that completes. @returns false when there is no such request. */
  abort(requestId: number): boolean {
    const request = this.#requests.get(requestId);
    if (!request || this.#abortedInFlight.has(requestId)) return false;
    this.#counts.aborted += 1;
    if (this.#inFlight?.entries.some((entry) => entry.requestId === requestId)) this.#abortedInFlight.add(requestId);
    else this.#end(request);
    return true;
  }

  /**
   * The next round; undefined when no request is left. Requests found not to fit are in `takeFailures` afterwards.
   * @throws InvariantError while a batch is in flight.
   */
  schedule(): ScheduledBatch | undefined {
    if (this.#inFlight)
      throw new InvariantError('Expected the batch in flight to be completed before the next `schedule()`.');
    const entries = this.#planner.plan();
    if (entries.length === 0) return undefined;
    const numRows = entries.reduce((total, entry) => total + entry.numInputs + entry.gamma, 0);
    this.#inFlight = { entries, numRows };
    return this.#inFlight;
  }

  /**
   * Books what came of a batch: `results[i]` belongs to `batch.entries[i]`.
   * @returns requests that ended. @throws InvariantError for results that do not fit the batch.
   */
  complete(batch: ScheduledBatch, results: readonly EntryResult[]): FinishedRequest[] {
    this.#expectInFlight(batch);
    if (results.length !== batch.entries.length) {
      throw new InvariantError(`Expected ${batch.entries.length} results but received ${results.length}.`);
    }
    batch.entries.forEach((entry, index) => {
      checkResult(entry, results[index]!);
    });
    this.#inFlight = undefined;
    this.#admission.reset();
    const finished: FinishedRequest[] = [];
    batch.entries.forEach((entry, index) => {
      if (this.#finishAborted(entry)) return;
      const reason = this.#advance(entry, results[index]!);
      if (reason) finished.push(this.#finish(entry.requestId, reason));
    });
    return finished;
  }

  /** Forgets a batch that could not be run: nothing was computed, everyone stays where they were. */
  discard(batch: ScheduledBatch): void {
    this.#expectInFlight(batch);
    this.#inFlight = undefined;
    this.#admission.reset();
    for (const entry of batch.entries) {
      if (!this.#finishAborted(entry)) this.#options.allocator.rollback(entry.requestId);
    }
  }

  /** Requests that had the pool to themselves and did not fit, since the last call. They are gone from the scheduler. */
  takeFailures(): FailedRequest[] {
    const failures = this.#failures;
    this.#failures = [];
    return failures;
  }

  has(requestId: number): boolean {
    return this.#requests.has(requestId);
  }

  /** Is anything waiting or running? */
  get hasWork(): boolean {
    return this.#requests.size > 0;
  }

  /** Prompt and emitted tokens of an unfinished request: a borrowed view, valid until the next `complete`. */
  tokensOf(requestId: number): Int32Array {
    return this.#get(requestId).tokens();
  }

  acceptanceOf(requestId: number): AcceptanceSummary {
    return this.#get(requestId).acceptance.summary();
  }

  get stats(): SchedulerStats {
    const numDecoding = this.#running.decoding.length;
    return {
      numWaiting: this.#waiting.length,
      numPrefilling: this.#running.size - numDecoding,
      numDecoding,
      numPreemptions: this.#counts.preemptions,
      numFinished: this.#counts.finished,
      numAborted: this.#counts.aborted,
      numFailed: this.#counts.failed,
      acceptance: this.#acceptance.summary(),
    };
  }

  /** Moves a request's lengths. @returns why it ended, if it did. */
  #advance(entry: ScheduledEntry, result: EntryResult): FinishedRequest['reason'] | undefined {
    const request = this.#get(entry.requestId);
    const { allocator } = this.#options;
    request.append(result.tokens);
    const numKept = entry.numInputs + Math.min(result.numAccepted, result.tokens.length);
    allocator.commit(entry.requestId, request.tokens(entry.startPosition, entry.startPosition + numKept));
    allocator.rollback(entry.requestId);
    request.numComputed = entry.startPosition + numKept;
    if (!entry.emit) return undefined;
    request.acceptance.record(entry.gamma, result.numAccepted);
    this.#acceptance.record(entry.gamma, result.numAccepted);
    if (request.phase === 'prefill') request.moveTo('decode');
    if (result.finished) return 'stop';
    return request.numRemaining <= 0 ? 'length' : undefined;
  }

  #finish(requestId: number, reason: FinishedRequest['reason']): FinishedRequest {
    const request = this.#get(requestId);
    this.#counts.finished += 1;
    this.#end(request);
    return {
      requestId,
      reason,
      tokens: request.tokens(request.numPromptTokens).slice(),
      cachedLen: request.cachedLen,
      numPreemptions: request.numPreemptions,
      acceptance: request.acceptance.summary(),
    };
  }

  #finishAborted(entry: ScheduledEntry): boolean {
    if (!this.#abortedInFlight.delete(entry.requestId)) return false;
    this.#end(this.#get(entry.requestId));
    return true;
  }

  #preempt(request: RequestState): void {
    this.#counts.preemptions += 1;
    this.#running.remove(request);
    this.#options.allocator.release(request.requestId);
    request.preempt();
    this.#waiting.insert(request);
    this.#admission.reset();
  }

  #fail(request: RequestState): void {
    this.#counts.failed += 1;
    const error = exhausted(request.requestId, request.numTokens, this.#options.allocator);
    this.#failures.push({ requestId: request.requestId, error });
    this.#end(request);
  }

  #end(request: RequestState): void {
    if (request.phase === 'waiting') this.#waiting.remove(request);
    else {
      this.#running.remove(request);
      this.#options.allocator.release(request.requestId);
    }
    request.moveTo('finished');
    this.#requests.delete(request.requestId);
    this.#admission.reset();
  }

  #expectInFlight(batch: ScheduledBatch): void {
    if (this.#inFlight !== batch) throw new InvariantError('Expected the batch that `schedule()` returned last, once.');
  }

  #get(requestId: number): RequestState {
    const request = this.#requests.get(requestId);
    if (request) return request;
    throw new InvariantError(`Expected request ${requestId} to be unfinished.`, { requestId });
  }
}

function checkResult(entry: ScheduledEntry, result: EntryResult): void {
  const { requestId, emit, gamma } = entry;
  const { numAccepted, finished = false } = result;
  const numTokens = result.tokens.length;
  const isRange = Number.isInteger(numAccepted) && numAccepted >= 0 && numAccepted <= gamma;
  const most = emit ? numAccepted + 1 : 0;
  const least = emit && finished ? 1 : most;
  if (isRange && numTokens >= least && numTokens <= most) return;
  throw new InvariantError(
    `Expected request ${requestId} (emit ${emit}, gamma ${gamma}) to emit numAccepted + 1 tokens but received ${numTokens} with numAccepted ${numAccepted}. Please report this.`,
    { requestId, emit, gamma, numTokens, numAccepted },
  );
}
