import {
  ConfigError,
  DeviceError,
  DisposedError,
  InvariantError,
  OutOfMemoryError,
  QSpecError,
  ShapeMismatchError,
  UnsupportedFormatError,
} from '@qspec/core';
import type { NativeStatus } from './native-types.js';

const CLASSES = {
  INVALID_ARGUMENT: ConfigError,
  SHAPE_MISMATCH: ShapeMismatchError,
  UNSUPPORTED: UnsupportedFormatError,
  OUT_OF_MEMORY: OutOfMemoryError,
  DEVICE: DeviceError,
  DISPOSED: DisposedError,
  INTERNAL: InvariantError,
} as const satisfies Record<NativeStatus, unknown>;

/** The error of `core` that a native `{ code, message }` stands for; anything else is an InvariantError with its cause. */
export function toQSpecError(error: unknown): QSpecError {
  if (error instanceof QSpecError) return error;
  const { code, message } = error as { code?: string; message?: string };
  if (code !== undefined && Object.hasOwn(CLASSES, code)) {
    return new CLASSES[code as NativeStatus](message ?? code, { nativeCode: code }, error);
  }
  return new InvariantError(`Unexpected failure in the native addon: ${message ?? String(error)}.`, {}, error);
}

/** Runs a native call, sync or async, so that only errors of `core` come out. */
export function guard<T>(call: () => T): T {
  try {
    const result = call();
    if (result instanceof Promise) return result.catch(rethrow) as T;
    return result;
  } catch (error) {
    throw toQSpecError(error);
  }
}

function rethrow(error: unknown): never {
  throw toQSpecError(error);
}
