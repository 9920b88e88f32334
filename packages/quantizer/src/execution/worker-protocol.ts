import { CheckpointError } from '@qspec/core';
import type { RowsResult, RowsTask } from '../quantize-rows.js';

/** One request to a worker; it answers in order. */
export type WorkerRequest = RowsTask;

/** Errors lose their class on the way between threads, so the typed ones travel as what they are made of. */
export type WorkerResponse =
  | { readonly result: RowsResult }
  | { readonly checkpointError: { readonly message: string; readonly details: Record<string, unknown> } }
  | { readonly error: Error };

export function toResponse(error: unknown): WorkerResponse {
  if (error instanceof CheckpointError) {
    return { checkpointError: { message: error.message, details: { ...error.details } } };
  }
  return { error: error instanceof Error ? error : new Error(String(error)) };
}

/** @throws what the worker threw. */
export function resultOf(response: WorkerResponse): RowsResult {
  if ('result' in response) return response.result;
  if ('error' in response) throw response.error;
  throw new CheckpointError(response.checkpointError.message, response.checkpointError.details);
}

/** Buffers that may move to the other thread instead of being copied. */
export function transferListOf(result: RowsResult): ArrayBuffer[] {
  return [result.hi, result.scales, ...(result.lo ? [result.lo] : [])].map((array) => array.buffer as ArrayBuffer);
}
