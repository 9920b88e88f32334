import { parentPort } from 'node:worker_threads';
import { toResponse, transferListOf, type WorkerRequest, type WorkerResponse } from './execution/worker-protocol.js';
import { quantizeRows } from './quantize-rows.js';

// Entry of a worker thread (dist/worker.js): rows in, codes out, one message each.
parentPort?.on('message', (request: WorkerRequest) => {
  try {
    const result = quantizeRows(request);
    parentPort?.postMessage({ result } satisfies WorkerResponse, transferListOf(result));
  } catch (error) {
    parentPort?.postMessage(toResponse(error));
  }
});
