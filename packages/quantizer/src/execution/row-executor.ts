import { setImmediate } from 'node:timers/promises';
import { quantizeRows, type RowsResult, type RowsTask } from '../quantize-rows.js';

/** Where the arithmetic happens. Whoever creates one closes it. Results do not depend on which one it is. */
export interface RowExecutor {
  /** Tasks that it pays to have waiting at once. */
  readonly concurrency: number;
  /** `task.data` may be taken away from the caller. @throws what `quantizeRows` throws. */
  run(task: RowsTask): Promise<RowsResult>;
  /** Ends running tasks (their promises reject) and waits for the threads to end. Idempotent. */
  close(): Promise<void>;
}

/** In the calling thread, a turn of the event loop before each task. */
export function createInThreadExecutor(): RowExecutor {
  return {
    concurrency: 1,
    async run(task) {
      await setImmediate();
      return quantizeRows(task);
    },
    async close() {},
  };
}
