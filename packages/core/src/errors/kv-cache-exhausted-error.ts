import { QSpecError } from './qspec-error.js';

/** A single request needs more KV pages than the pool has. */
export class KvCacheExhaustedError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('KV_CACHE_EXHAUSTED', message, details, cause);
  }
}
