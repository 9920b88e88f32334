import { QSpecError } from './qspec-error.js';

/** Prompt and requested output do not fit the context. */
export class ContextLengthError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('CONTEXT_LENGTH', message, details, cause);
  }
}
