import { QSpecError } from './qspec-error.js';

/** Well-formed input of a kind that qspec does not handle: an architecture, a dtype, a tokeniser type. */
export class UnsupportedFormatError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('UNSUPPORTED_FORMAT', message, details, cause);
  }
}
