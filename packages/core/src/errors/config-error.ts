import { QSpecError } from './qspec-error.js';

/** An option has a value that is not allowed; the message names the option and what is. */
export class ConfigError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('CONFIG', message, details, cause);
  }
}
