import { QSpecError } from './qspec-error.js';

/** A device is missing, too old, or failed while running. */
export class DeviceError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('DEVICE', message, details, cause);
  }
}
