/** Stable, machine-readable names of everything that can go wrong. */
export type QSpecErrorCode =
  | 'CONFIG'
  | 'CHECKPOINT'
  | 'UNSUPPORTED_FORMAT'
  | 'SHAPE_MISMATCH'
  | 'KERNEL_LOAD'
  | 'DEVICE'
  | 'OUT_OF_MEMORY'
  | 'KV_CACHE_EXHAUSTED'
  | 'CONTEXT_LENGTH'
  | 'REQUEST_ABORTED'
  | 'DISPOSED'
  | 'INVARIANT';

/** Base of all errors thrown on purpose. `details` holds the numbers and names that the sentence mentions. */
export class QSpecError extends Error {
  readonly code: QSpecErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: QSpecErrorCode, message: string, details: Record<string, unknown> = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.code = code;
    this.details = details;
  }
}
