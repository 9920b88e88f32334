import { QSpecError } from './qspec-error.js';

/** A tensor does not have the shape that its place in the model requires. */
export class ShapeMismatchError extends QSpecError {
  constructor(message: string, details?: Record<string, unknown>, cause?: unknown) {
    super('SHAPE_MISMATCH', message, details, cause);
  }
}
