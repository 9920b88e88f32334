import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { numPhysicalCores } from './num-physical-cores.js';
import { createInThreadExecutor, type RowExecutor } from './row-executor.js';
import { WorkerExecutor } from './worker-executor.js';

/**
 * `numWorkers` threads; 0 = none, the work is done in slices in the calling thread. Default: one a physical core.
 * Where the built worker does not lie beside this module (running from TypeScript sources, or bundled into another file), there are no threads
 * either: slower, the result is the same.
 *
 * @param entry the worker's script; for tests.
 */
export function openExecutor(numWorkers = numPhysicalCores(), entry: URL | undefined = findWorkerEntry()): RowExecutor {
  return numWorkers === 0 || !entry ? createInThreadExecutor() : new WorkerExecutor(entry, numWorkers);
}

/** `dist/worker.js` beside `dist/index.js` and `dist/index.cjs` alike. */
export function findWorkerEntry(): URL | undefined {
  const entry = new URL('./worker.js', import.meta.url);
  return entry.protocol === 'file:' && existsSync(fileURLToPath(entry)) ? entry : undefined;
}
