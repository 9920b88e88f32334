import { QSpecError } from './qspec-error.js';

/** A checkpoint or artifact is missing something, truncated or altered; the message names file and tensor. */
export class CheckpointError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('CHECKPOINT', message, details, cause);
  }
}
