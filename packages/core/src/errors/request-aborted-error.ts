import { QSpecError } from './qspec-error.js';

/** The caller's AbortSignal fired. */
export class RequestAbortedError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('REQUEST_ABORTED', message, details, cause);
  }
}
