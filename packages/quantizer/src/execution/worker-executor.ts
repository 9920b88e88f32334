import { Worker } from 'node:worker_threads';
import { DisposedError } from '@qspec/core';
import type { RowsResult, RowsTask } from '../quantize-rows.js';
import type { RowExecutor } from './row-executor.js';
import { resultOf, type WorkerResponse } from './worker-protocol.js';

interface Job {
  readonly task: RowsTask;
  readonly resolve: (result: RowsResult) => void;
  readonly reject: (error: unknown) => void;
}

/** A thread and the job it is at. */
interface Seat {
  readonly worker: Worker;
  job: Job | undefined;
}

/**
 * `numWorkers` threads running `entry`, each at one task at a time.
 * A thread that dies takes the executor with it: waiting and later tasks reject with its error.
 */
export class WorkerExecutor implements RowExecutor {
  readonly concurrency: number;
  private readonly seats: Seat[];
  private readonly waiting: Job[] = [];
  private failure: unknown;

  constructor(entry: URL, numWorkers: number) {
    this.concurrency = 2 * numWorkers;
    this.seats = Array.from({ length: numWorkers }, () => this.openSeat(entry));
  }

  run(task: RowsTask): Promise<RowsResult> {
    return new Promise((resolve, reject) => {
      if (this.failure !== undefined) return reject(this.failure);
      this.waiting.push({ task, resolve, reject });
      this.assign();
    });
  }

  async close(): Promise<void> {
    this.fail(new DisposedError('The quantizer was closed while rows were being quantised.'));
    await Promise.all(this.seats.map(({ worker }) => worker.terminate()));
  }

  private openSeat(entry: URL): Seat {
    const seat: Seat = { worker: new Worker(entry), job: undefined };
    seat.worker.on('message', (response: WorkerResponse) => {
      const job = seat.job;
      seat.job = undefined;
      this.assign();
      settle(job, response);
    });
    seat.worker.on('error', (error) => this.fail(error));
    seat.worker.on('exit', (code) => this.fail(new Error(`A quantizer thread ended with code ${code}.`)));
    seat.worker.unref();
    return seat;
  }

  private assign(): void {
    for (const seat of this.seats) {
      if (seat.job) continue;
      const job = this.waiting.shift();
      if (!job) return;
      seat.job = job;
      seat.worker.ref();
      seat.worker.postMessage(job.task, [job.task.data.buffer]);
    }
  }

  private fail(error: unknown): void {
    this.failure ??= error;
    const jobs = [...this.seats.flatMap(({ job }) => job ?? []), ...this.waiting.splice(0)];
    for (const seat of this.seats) seat.job = undefined;
    for (const job of jobs) job.reject(this.failure);
  }
}

function settle(job: Job | undefined, response: WorkerResponse): void {
  if (!job) return;
  try {
    job.resolve(resultOf(response));
  } catch (error) {
    job.reject(error);
  }
}
