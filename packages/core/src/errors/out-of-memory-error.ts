import { QSpecError } from './qspec-error.js';

/** Memory for weights or KV could not be had; the message says how much was asked and what to lower. */
export class OutOfMemoryError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('OUT_OF_MEMORY', message, details, cause);
  }
}
