import { CheckpointError } from '@qspec/core';
import { readSmallFile } from './byte-file.js';
import { MAX_JSON_BYTES } from './limits.js';

export type UnknownFields = Readonly<Record<string, unknown>>;

/** @throws CheckpointError unless `bytes` are UTF-8 JSON with an object at the top. */
export function parseJsonObject(bytes: Uint8Array, path: string): UnknownFields {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new CheckpointError(
      `Expected \`${path}\` to hold JSON but received ${error instanceof Error ? error.message : String(error)}. The file is damaged: download or copy it again.`,
      { path },
      error,
    );
  }
  return expectObject(value, path, path);
}

export async function readJsonFile(path: string): Promise<UnknownFields> {
  return parseJsonObject(await readSmallFile(path, MAX_JSON_BYTES), path);
}

export function expectObject(value: unknown, what: string, path: string): UnknownFields {
  if (isObject(value)) return value;
  throw new CheckpointError(`Expected \`${what}\` in \`${path}\` to be an object but received ${describe(value)}.`, {
    path,
    field: what,
  });
}

export function isObject(value: unknown): value is UnknownFields {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** Short enough for a sentence. Objects as JSON: their own `toString` may be anything. */
export function describe(value: unknown): string {
  const isStructured = typeof value === 'string' || (typeof value === 'object' && value !== null);
  const text = isStructured ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
