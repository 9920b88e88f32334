import { QSpecError } from '@qspec/core';

/** What the shell sees. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const;

/** Bad options and context lengths are the caller's to mend (2), an abort is 130, the rest is 1. */
export function exitCodeOf(error: unknown): number {
  if (!(error instanceof QSpecError)) return EXIT.failure;
  if (error.code === 'CONFIG' || error.code === 'CONTEXT_LENGTH') return EXIT.usage;
  return error.code === 'REQUEST_ABORTED' ? EXIT.interrupted : EXIT.failure;
}

/** One sentence for people; the stack only for what nobody foresaw. */
export function describeError(error: unknown): string {
  if (error instanceof QSpecError) return `${error.name}: ${error.message}`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

export function errorAsJson(error: unknown): Record<string, unknown> {
  if (error instanceof QSpecError)
    return { error: { code: error.code, message: error.message, details: error.details } };
  return { error: { code: 'UNKNOWN', message: error instanceof Error ? error.message : String(error) } };
}
