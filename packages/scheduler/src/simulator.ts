import type { FinishedRequest } from './scheduled-batch.js';
import { Scheduler, type SchedulerStats } from './scheduler.js';
import type { NewRequest, SchedulerOptions } from './scheduler-options.js';
import { SyntheticDevice, type SyntheticDeviceOptions } from './synthetic-device.js';

export interface SimulatedRequest extends NewRequest {
  /** Milliseconds after the start. Default 0. */
  readonly arrivalMs?: number;
}

export interface SimulationOptions {
  readonly scheduler: SchedulerOptions;
  readonly device: SyntheticDeviceOptions;
  readonly requests: readonly SimulatedRequest[];
}

export interface SimulatedOutcome extends FinishedRequest {
  readonly arrivalMs: number;
  /** From arrival to the first emitted token. */
  readonly firstTokenMs: number;
  /** From arrival to the last. */
  readonly totalMs: number;
}

export interface SimulationReport {
  /** In order of finishing. */
  readonly outcomes: readonly SimulatedOutcome[];
  /** Requests that did not fit the KV cache. */
  readonly failedIds: readonly number[];
  readonly elapsedMs: number;
  readonly numRounds: number;
  readonly tokensPerSecond: number;
  readonly stats: SchedulerStats;
}

/** Runs the scheduler against a synthetic device on a virtual clock: to judge policies in milliseconds instead of hours. */
export function simulate(options: SimulationOptions): SimulationReport {
  return new Simulation(options).run();
}

class Simulation {
  readonly #scheduler: Scheduler;
  readonly #device: SyntheticDevice;
  readonly #arrivals: SimulatedRequest[];
  readonly #arrivalMs = new Map<number, number>();
  readonly #firstTokenMs = new Map<number, number>();
  readonly #outcomes: SimulatedOutcome[] = [];
  readonly #failedIds: number[] = [];
  #nowMs = 0;
  #numRounds = 0;

  constructor(options: SimulationOptions) {
    this.#scheduler = new Scheduler(options.scheduler);
    this.#device = new SyntheticDevice(options.device);
    this.#arrivals = [...options.requests].sort((a, b) => (a.arrivalMs ?? 0) - (b.arrivalMs ?? 0));
  }

  run(): SimulationReport {
    while (this.#arrivals.length > 0 || this.#scheduler.hasWork) {
      if (!this.#scheduler.hasWork) this.#nowMs = Math.max(this.#nowMs, this.#arrivals[0]!.arrivalMs ?? 0);
      this.#addArrived();
      this.#round();
    }
    const numTokens = this.#outcomes.reduce((total, outcome) => total + outcome.tokens.length, 0);
    return {
      outcomes: this.#outcomes,
      failedIds: this.#failedIds,
      elapsedMs: this.#nowMs,
      numRounds: this.#numRounds,
      tokensPerSecond: this.#nowMs === 0 ? 0 : (1000 * numTokens) / this.#nowMs,
      stats: this.#scheduler.stats,
    };
  }

  #addArrived(): void {
    while (this.#arrivals.length > 0 && (this.#arrivals[0]!.arrivalMs ?? 0) <= this.#nowMs) {
      const request = this.#arrivals.shift()!;
      this.#arrivalMs.set(request.requestId, request.arrivalMs ?? 0);
      this.#scheduler.add(request);
    }
  }

  #round(): void {
    const batch = this.#scheduler.schedule();
    for (const { requestId } of this.#scheduler.takeFailures()) this.#failedIds.push(requestId);
    if (!batch) return;
    const { results, elapsedMs } = this.#device.run(batch);
    this.#nowMs += elapsedMs;
    this.#numRounds += 1;
    for (const { requestId, emit } of batch.entries) {
      if (emit && !this.#firstTokenMs.has(requestId)) this.#firstTokenMs.set(requestId, this.#nowMs);
    }
    for (const finished of this.#scheduler.complete(batch, results)) {
      const arrivalMs = this.#arrivalMs.get(finished.requestId)!;
      const firstTokenMs = this.#firstTokenMs.get(finished.requestId)! - arrivalMs;
      this.#outcomes.push({ ...finished, arrivalMs, firstTokenMs, totalMs: this.#nowMs - arrivalMs });
    }
  }
}
