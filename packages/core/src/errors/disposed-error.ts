import { QSpecError } from './qspec-error.js';

/** An object was used after it was closed. */
export class DisposedError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('DISPOSED', message, details, cause);
  }
}
