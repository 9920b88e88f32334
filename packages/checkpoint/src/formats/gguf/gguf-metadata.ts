import { MAX_GGUF_ARRAY_DEPTH, MAX_GGUF_METADATA_ENTRIES, MAX_TENSOR_NAME_LENGTH } from '../../limits.js';
import type { GgufCursor } from './gguf-cursor.js';

/** 64-bit integers are numbers where they are safe integers, bigints beyond. */
export type GgufValue = number | bigint | boolean | string | GgufArray;

/** Long arrays (vocabularies) are checked and counted but not kept. */
export interface GgufArray {
  readonly length: number;
  /** Present up to {@link MAX_KEPT_ITEMS} items. */
  readonly items?: readonly GgufValue[];
}

export type GgufMetadata = ReadonlyMap<string, GgufValue>;

export const MAX_KEPT_ITEMS = 4096;

const ValueType = {
  string: 8,
  array: 9,
} as const;

interface Scalar {
  readonly bytes: number;
  readonly read: (cursor: GgufCursor) => GgufValue;
}

const SCALARS: Readonly<Record<number, Scalar>> = {
  0: { bytes: 1, read: (cursor) => cursor.u8() },
  1: { bytes: 1, read: (cursor) => cursor.i8() },
  2: { bytes: 2, read: (cursor) => cursor.u16() },
  3: { bytes: 2, read: (cursor) => cursor.i16() },
  4: { bytes: 4, read: (cursor) => cursor.u32() },
  5: { bytes: 4, read: (cursor) => cursor.i32() },
  6: { bytes: 4, read: (cursor) => cursor.f32() },
  7: { bytes: 1, read: (cursor) => cursor.u8() !== 0 },
  10: { bytes: 8, read: (cursor) => narrow(cursor.u64()) },
  11: { bytes: 8, read: (cursor) => narrow(cursor.i64()) },
  12: { bytes: 8, read: (cursor) => cursor.f64() },
};

export function readMetadata(cursor: GgufCursor, numEntries: number): GgufMetadata {
  if (numEntries > MAX_GGUF_METADATA_ENTRIES) {
    throw cursor.damaged(`Expected at most ${MAX_GGUF_METADATA_ENTRIES} metadata entries but received ${numEntries}`);
  }
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < numEntries; i++) {
    const key = cursor.string();
    if (key.length > MAX_TENSOR_NAME_LENGTH) throw cursor.damaged('Expected metadata keys to be short');
    if (metadata.has(key)) throw cursor.damaged(`Expected each metadata key once but received \`${key}\` twice`);
    metadata.set(key, readValue(cursor, cursor.u32(), key, 0));
  }
  return metadata;
}

function readValue(cursor: GgufCursor, type: number, key: string, depth: number): GgufValue {
  const scalar = SCALARS[type];
  if (scalar) return scalar.read(cursor);
  if (type === ValueType.string) return cursor.string();
  if (type !== ValueType.array) throw cursor.damaged(`Expected a known value type for \`${key}\` but received ${type}`);
  if (depth >= MAX_GGUF_ARRAY_DEPTH) throw cursor.damaged(`Expected \`${key}\` to nest arrays at most ${depth} deep`);
  return readArray(cursor, key, depth);
}

function readArray(cursor: GgufCursor, key: string, depth: number): GgufArray {
  const type = cursor.u32();
  const length = cursor.count(`the length of \`${key}\``, Number.MAX_SAFE_INTEGER);
  if (length <= MAX_KEPT_ITEMS) {
    const items: GgufValue[] = [];
    for (let i = 0; i < length; i++) items.push(readValue(cursor, type, key, depth + 1));
    return { length, items };
  }
  const scalar = SCALARS[type];
  if (scalar) cursor.take(length * scalar.bytes);
  else if (type === ValueType.string) for (let i = 0; i < length; i++) cursor.skipString();
  else throw cursor.damaged(`Expected at most ${MAX_KEPT_ITEMS} arrays in \`${key}\` but received ${length}`);
  return { length };
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
