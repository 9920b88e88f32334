import { QSpecError } from './qspec-error.js';

/** The native addon could not be loaded; the message says how to build it. */
export class KernelLoadError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('KERNEL_LOAD', message, details, cause);
  }
}
