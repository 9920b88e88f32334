import type { Admission } from './admission.js';
import type { DecodeSet } from './decode-set.js';
import { type PreemptionActions, reserveDrafts, reserveOrPreempt } from './preemption.js';
import type { PrefillQueue } from './prefill-queue.js';
import type { RequestState } from './request-state.js';
import type { ScheduledEntry } from './scheduled-batch.js';
import type { ResolvedSchedulerOptions } from './scheduler-options.js';
import { gammaWithin, TokenBudget } from './token-budget.js';

/** A request's place in the coming round. */
interface Plan {
  readonly request: RequestState;
  numInputs: number;
  gamma: number;
}

/**
 * Who computes what in one round, in four steps: share out the rows; get pages for the inputs, oldest first, preempting the most recent; get
 * pages for drafts, from what is left; let waiting requests in.
 */
export class RoundPlanner {
  readonly #options: ResolvedSchedulerOptions;
  readonly #waiting: PrefillQueue;
  readonly #running: DecodeSet;
  readonly #admission: Admission;
  readonly #actions: PreemptionActions;

  constructor(
    options: ResolvedSchedulerOptions,
    queues: { readonly waiting: PrefillQueue; readonly running: DecodeSet; readonly admission: Admission },
    actions: PreemptionActions,
  ) {
    this.#options = options;
    this.#waiting = queues.waiting;
    this.#running = queues.running;
    this.#admission = queues.admission;
    this.#actions = actions;
  }

  /** Entries with their pages reserved, decoding ones first; none when nobody is left. */
  plan(): ScheduledEntry[] {
    const budget = new TokenBudget(this.#options.maxBatchedTokens);
    const wishes = this.#shareRows(budget);
    for (const plan of wishes) this.#reserveInputs(plan, budget);
    const plans = wishes.filter((plan) => plan.numInputs > 0);
    for (const plan of plans) this.#reserveDrafts(plan, budget);
    const hasPreempted = wishes.some(({ request }) => request.phase === 'waiting');
    if (!hasPreempted || this.#running.size === 0) this.#admit(budget, plans);
    return [...plans.filter((plan) => !isPrefill(plan)), ...plans.filter(isPrefill)].map(toEntry);
  }

  /** In order of arrival, the rows that each running request would like; within the budget. */
  #shareRows(budget: TokenBudget): Plan[] {
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
    return Math.max(0, Math.min(Math.floor(wanted), maxGamma, request.maxGamma, request.numRemaining - 1));
  }

  /** Tokens that could be prefilled now, counted up to `limit`. */
  #numPendingPrefill(limit: number): number {
    const running = this.#running.prefilling.reduce((total, request) => total + request.numPending, 0);
    const canAdmit = this.#running.size < this.#options.maxRunning && !this.#admission.isBlocked(this.#running);
    return Math.min(limit, running + (canAdmit ? this.#waiting.numPending(limit) : 0));
  }

  /** Pages for as many of the planned inputs as there is room for; rows that are not used go back. */
  #reserveInputs(plan: Plan, budget: TokenBudget): void {
    const { request, numInputs, gamma } = plan;
    if (numInputs === 0) return;
    const { allocator } = this.#options;
    const isRunning = this.#running.has(request);
    plan.numInputs = isRunning ? reserveOrPreempt(allocator, this.#running, request, numInputs, this.#actions) : 0;
    if (plan.numInputs === 0) plan.gamma = 0;
    budget.giveBack(numInputs - plan.numInputs + gamma - plan.gamma);
  }

  #reserveDrafts(plan: Plan, budget: TokenBudget): void {
    const { request, numInputs, gamma } = plan;
    plan.gamma = reserveDrafts(this.#options.allocator, request, numInputs, gamma);
    budget.giveBack(gamma - plan.gamma);
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
      budget.take(plan.numInputs);
      this.#reserveInputs(plan, budget);
      if (plan.numInputs > 0) plans.push(plan);
      else if (request.phase !== 'finished') return;
    }
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
