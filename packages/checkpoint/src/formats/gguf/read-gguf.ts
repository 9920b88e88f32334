import { UnsupportedFormatError } from '@qspec/core';
import { ByteFile } from '../../byte-file.js';
import { MAX_GGUF_ALIGNMENT, MAX_GGUF_HEADER_BYTES, MAX_TENSOR_NAME_LENGTH, MAX_TENSORS } from '../../limits.js';
import { FileRegion } from '../../region.js';
import { GGML_TYPES } from './ggml-types.js';
import { GgufCursor, NeedMoreBytes } from './gguf-cursor.js';
import { type GgufMetadata, readMetadata } from './gguf-metadata.js';

/** One entry of the tensor table, checked against the file. */
export interface GgufTensorEntry {
  /** GGUF name, e.g. `blk.0.attn_q.weight`. */
  readonly name: string;
  readonly ggmlType: number;
  /** Row-major: outermost first, the reverse of the file's order. */
  readonly shape: readonly number[];
  /** Undefined for a type that cannot be read: its size is not known. */
  readonly region?: FileRegion;
}

export interface GgufFile {
  readonly file: ByteFile;
  readonly metadata: GgufMetadata;
  readonly tensors: readonly GgufTensorEntry[];
}

const MAGIC = 0x46554747; // "GGUF"
const FIRST_READ_BYTES = 1024 * 1024;

/**
 * Reads metadata and tensor table of a GGUF of version 2 or 3. The caller closes `file`.
 * @throws CheckpointError when they do not fit the file; UnsupportedFormatError for other versions and big-endian files.
 */
export async function readGguf(path: string): Promise<GgufFile> {
  const file = await ByteFile.open(path);
  try {
    for (let window = FIRST_READ_BYTES; ; window *= 4) {
      const bytes = new Uint8Array(Math.min(window, file.size, MAX_GGUF_HEADER_BYTES));
      await file.read(bytes, 0);
      const cursor = new GgufCursor(path, bytes, file.size);
      try {
        return { file, ...parseHeader(cursor, file) };
      } catch (error) {
        if (!(error instanceof NeedMoreBytes)) throw error;
        if (window >= MAX_GGUF_HEADER_BYTES) {
          throw cursor.damaged(`Expected metadata of at most ${MAX_GGUF_HEADER_BYTES} bytes`);
        }
      }
    }
  } catch (error) {
    await file.close();
    throw error;
  }
}

function parseHeader(cursor: GgufCursor, file: ByteFile): Omit<GgufFile, 'file'> {
  if (cursor.u32() !== MAGIC) throw cursor.damaged('Expected the file to begin with `GGUF`');
  expectVersion(cursor);
  const numTensors = cursor.count('the number of tensors', MAX_TENSORS);
  const numEntries = cursor.count('the number of metadata entries', Number.MAX_SAFE_INTEGER);
  const metadata = readMetadata(cursor, numEntries);
  const alignment = expectAlignment(cursor, metadata);
  const placed: PlacedTensor[] = [];
  for (let i = 0; i < numTensors; i++) placed.push(readTensorEntry(cursor, alignment));
  const dataStart = Math.ceil(cursor.offset / alignment) * alignment;
  expectDisjoint(cursor, placed);
  return { metadata, tensors: placed.map((tensor) => locate(cursor, tensor, file, dataStart)) };
}

function expectVersion(cursor: GgufCursor): void {
  const version = cursor.u32();
  if (version === 2 || version === 3) return;
  const isBigEndian = (version & 0xffff) === 0;
  throw new UnsupportedFormatError(
    `Expected \`${cursor.path}\` to be a little-endian GGUF of version 2 or 3 but received ${isBigEndian ? 'a big-endian file' : `version ${version}`}.`,
    { path: cursor.path, received: version },
  );
}

function expectAlignment(cursor: GgufCursor, metadata: GgufMetadata): number {
  const alignment = metadata.get('general.alignment') ?? 32;
  const isValid =
    typeof alignment === 'number' &&
    Number.isInteger(Math.log2(alignment)) &&
    alignment >= 1 &&
    alignment <= MAX_GGUF_ALIGNMENT;
  if (isValid) return alignment;
  throw cursor.damaged('Expected `general.alignment` to be a power of two');
}

interface PlacedTensor {
  readonly name: string;
  readonly ggmlType: number;
  readonly shape: readonly number[];
  /** From the beginning of the data. */
  readonly begin: number;
  readonly byteLength: number | undefined;
}

function readTensorEntry(cursor: GgufCursor, alignment: number): PlacedTensor {
  const name = cursor.string();
  if (name.length > MAX_TENSOR_NAME_LENGTH) throw cursor.damaged('Expected tensor names to be short');
  const rank = cursor.u32();
  if (rank > 4) throw cursor.damaged(`Expected tensor \`${name}\` to have at most 4 dimensions but received ${rank}`);
  const sizes: number[] = [];
  for (let i = 0; i < rank; i++) sizes.push(cursor.count(`a dimension of \`${name}\``, Number.MAX_SAFE_INTEGER));
  const ggmlType = cursor.u32();
  const begin = cursor.count(`the offset of \`${name}\``, Number.MAX_SAFE_INTEGER);
  if (begin % alignment !== 0)
    throw cursor.damaged(`Expected the offset of \`${name}\` to be a multiple of ${alignment}`);
  const type = GGML_TYPES.get(ggmlType);
  if (!type) return { name, ggmlType, shape: sizes.reverse(), begin, byteLength: undefined };
  const rowLength = sizes[0] ?? 1;
  if (rowLength % type.blockLength !== 0) {
    throw cursor.damaged(
      `Expected rows of \`${name}\` (${type.label}) to be a multiple of ${type.blockLength} but received ${rowLength}`,
    );
  }
  const byteLength = sizes.reduce((product, size) => product * size, 1) * (type.blockBytes / type.blockLength);
  if (!Number.isSafeInteger(byteLength)) throw cursor.damaged(`Expected tensor \`${name}\` to have a sane shape`);
  return { name, ggmlType, shape: sizes.reverse(), begin, byteLength };
}

function expectDisjoint(cursor: GgufCursor, tensors: readonly PlacedTensor[]): void {
  const sorted = [...tensors].sort((a, b) => a.begin - b.begin);
  const names = new Set<string>();
  let end = 0;
  for (const { name, begin, byteLength } of sorted) {
    if (names.has(name))
      throw cursor.damaged(`Expected each tensor once but received \`${name}\` twice`, { tensor: name });
    names.add(name);
    if (begin < end) throw cursor.damaged(`Expected tensor \`${name}\` not to overlap another`, { tensor: name });
    end = begin + (byteLength ?? 0);
  }
}

function locate(cursor: GgufCursor, tensor: PlacedTensor, file: ByteFile, dataStart: number): GgufTensorEntry {
  const { name, ggmlType, shape, begin, byteLength } = tensor;
  const offset = dataStart + begin;
  const end = offset + (byteLength ?? 0);
  if (end > file.size) {
    throw cursor.damaged(
      `Expected tensor \`${name}\` to end at byte ${end} but the file has ${file.size}: it is truncated`,
      { tensor: name },
    );
  }
  if (byteLength === undefined) return { name, ggmlType, shape };
  return { name, ggmlType, shape, region: new FileRegion(name, file, offset, byteLength) };
}
