import { ConfigError, InvariantError } from '@qspec/core';
import { Admission } from './admission.js';
import { DecodeSet } from './decode-set.js';
import { type PreemptionActions, reserveDrafts, reserveOrPreempt } from './preemption.js';
import { PrefillQueue } from './prefill-queue.js';
import { RequestState } from './request-state.js';
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
import { gammaWithin, TokenBudget } from './token-budget.js';

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

/** A request's place in the coming round. */
interface Plan {
  readonly request: RequestState;
  numInputs: number;
  gamma: number;
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
  readonly #actions: PreemptionActions;
  #inFlight: ScheduledBatch | undefined;
  readonly #abortedInFlight = new Set<number>();
  #failures: FailedRequest[] = [];
  #numArrivals = 0;
  readonly #counts = { preemptions: 0, finished: 0, aborted: 0, failed: 0 };

  /** @throws ConfigError */
  constructor(options: SchedulerOptions) {
    this.#options = resolveSchedulerOptions(options);
    this.#admission = new Admission(this.#options.allocator);
    this.#actions = { preempt: (request) => this.#preempt(request), fail: (request) => this.#fail(request) };
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
    const budget = new TokenBudget(this.#options.maxBatchedTokens);
    const plans = this.#planRunning(budget);
    const numPreemptions = this.#counts.preemptions;
    for (const plan of plans) this.#reserveInputs(plan);
    const kept = plans.filter((plan) => plan.numInputs > 0 && this.#running.has(plan.request));
    for (const plan of kept)
      plan.gamma = reserveDrafts(this.#options.allocator, plan.request, plan.numInputs, plan.gamma);
    if (this.#counts.preemptions === numPreemptions || this.#running.size === 0) this.#admit(budget, kept);
    if (kept.length === 0) return undefined;
    const decodeFirst = [...kept.filter((plan) => !isPrefill(plan)), ...kept.filter(isPrefill)];
    const entries = decodeFirst.map(toEntry);
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

  /** In order of arrival, the rows that each running request would like; within the budget. */
  #planRunning(budget: TokenBudget): Plan[] {
    const decoding = this.#running.decoding;
    const maxGamma = gammaWithin(budget.max, decoding.length, this.#numPendingPrefill(budget.max));
    const gammas = new Map(decoding.map((request) => [request, this.#gammaFor(request, decoding.length, maxGamma)]));
    for (const gamma of gammas.values()) budget.take(1 + gamma);
    return [...this.#running].map((request) => {
      const gamma = gammas.get(request);
      if (gamma !== undefined) return { request, numInputs: 1, gamma };
      const numInputs = Math.min(request.numPending, budget.left);
      budget.take(numInputs);
      return { request, numInputs, gamma: 0 };
    });
  }

  #gammaFor(request: RequestState, numDecoding: number, maxGamma: number): number {
    const { requestId, numTokens: contextLen, acceptance } = request;
    const wanted = this.#options.drafter.gammaFor({ requestId, contextLen, numDecoding, acceptance });
    return Math.max(0, Math.min(wanted, maxGamma, request.maxGamma, request.numRemaining - 1));
  }

  /** Tokens that could be prefilled now, counted up to `limit`. */
  #numPendingPrefill(limit: number): number {
    const running = this.#running.prefilling.reduce((total, request) => total + request.numPending, 0);
    const head = this.#waiting.head;
    const canAdmit = head && this.#running.size < this.#options.maxRunning && !this.#admission.isBlocked(this.#running);
    return Math.min(limit, running + (canAdmit ? head.numPending : 0));
  }

  #reserveInputs(plan: Plan): void {
    if (plan.numInputs === 0 || !this.#running.has(plan.request)) return;
    plan.numInputs = reserveOrPreempt(
      this.#options.allocator,
      this.#running,
      plan.request,
      plan.numInputs,
      this.#actions,
    );
  }

  /** Lets waiting requests in while there are rows, places and pages, strictly by arrival. */
  #admit(budget: TokenBudget, plans: Plan[]): void {
    while (budget.left > 0 && this.#running.size < this.#options.maxRunning) {
      const request = this.#waiting.head;
      if (!request) return;
      const cachedLen = this.#admission.tryBegin(request, this.#running);
      if (cachedLen === undefined) return;
      this.#waiting.shift();
      request.startPrefill(cachedLen);
      this.#running.add(request);
      const plan = { request, numInputs: Math.min(request.numPending, budget.left), gamma: 0 };
      this.#reserveInputs(plan);
      if (plan.numInputs === 0 && this.has(request.requestId)) return;
      if (plan.numInputs === 0) continue;
      budget.take(plan.numInputs);
      plans.push(plan);
    }
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

function isPrefill(plan: Plan): boolean {
  return plan.request.phase === 'prefill';
}

function toEntry(plan: Plan): ScheduledEntry {
  const { request, numInputs, gamma } = plan;
  const startPosition = request.numComputed;
  return {
    requestId: request.requestId,
    startPosition,
    numInputs,
    tokens: request.tokens(startPosition, startPosition + numInputs),
    emit: numInputs === request.numPending,
    gamma,
    isPrefill: isPrefill(plan),
  };
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
