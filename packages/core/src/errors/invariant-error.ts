import { QSpecError } from './qspec-error.js';

/** A bug in qspec: something that must hold does not. Please report it with the message. */
export class InvariantError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('INVARIANT', message, details, cause);
  }
}
