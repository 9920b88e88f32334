import { CheckpointError, DTYPE_BYTES, type DType, UnsupportedFormatError } from '@qspec/core';
import { ByteFile } from './byte-file.js';
import { duplicateKey } from './duplicate-key.js';
import { describe, isObject, parseJsonObject } from './json.js';
import { MAX_SAFETENSORS_HEADER_BYTES, MAX_TENSOR_RANK, MAX_TENSORS } from './limits.js';
import { FileRegion } from './region.js';

/** One entry of a safetensors header, checked against the file. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly region: FileRegion;
}

export interface SafetensorsFile {
  readonly file: ByteFile;
  /** The length word and the JSON after it, as they are in the file. */
  readonly headerBytes: Uint8Array;
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
}

export const SAFETENSORS_DTYPES: Readonly<Record<string, DType>> = {
  F64: 'f64',
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  I64: 'i64',
  I32: 'i32',
  I16: 'i16',
  I8: 'i8',
  U64: 'u64',
  U32: 'u32',
  U16: 'u16',
  U8: 'u8',
  BOOL: 'bool',
};

/**
 * Reads and checks the header; tensors are read later through their regions. The caller closes `file`.
 * @throws CheckpointError when header and file do not fit together; UnsupportedFormatError for an unknown element type.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await ByteFile.open(path);
  try {
    const headerBytes = await readHeader(file);
    return { file, headerBytes, entries: parseHeader(file, headerBytes) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readHeader(file: ByteFile): Promise<Uint8Array> {
  if (file.size < 8) throw damaged(file, `Expected a safetensors file of at least 8 bytes but received ${file.size}`);
  const prefix = new Uint8Array(8);
  await file.read(prefix, 0);
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (length > file.size - 8) {
    throw damaged(file, `Expected a header of at most ${file.size - 8} bytes but it claims ${length}`);
  }
  if (length > MAX_SAFETENSORS_HEADER_BYTES) {
    throw damaged(file, `Expected a header of at most ${MAX_SAFETENSORS_HEADER_BYTES} bytes but it claims ${length}`);
  }
  const bytes = new Uint8Array(8 + length);
  await file.read(bytes, 0);
  return bytes;
}

function parseHeader(file: ByteFile, headerBytes: Uint8Array): Map<string, SafetensorsEntry> {
  const json = headerBytes.subarray(8);
  const header = parseJsonObject(json, file.path);
  const duplicate = duplicateKey(new TextDecoder().decode(json));
  if (duplicate !== undefined) throw damaged(file, `Expected each tensor once but received \`${duplicate}\` twice`);
  const dataStart = headerBytes.byteLength;
  const entries = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, value]) => parseEntry(file, name, value, dataStart));
  if (entries.length > MAX_TENSORS) throw damaged(file, `Expected at most ${MAX_TENSORS} tensors`);
  expectContiguous(file, entries, file.size - dataStart);
  return new Map(entries.map(({ entry }) => [entry.name, entry]));
}

interface PlacedEntry {
  readonly entry: SafetensorsEntry;
  readonly begin: number;
  readonly end: number;
}

function parseEntry(file: ByteFile, name: string, value: unknown, dataStart: number): PlacedEntry {
  const { dtype: wireDType, shape, data_offsets: offsets } = isObject(value) ? value : {};
  const fail = (what: string, received: unknown): CheckpointError =>
    damaged(file, `Expected \`${what}\` of tensor \`${name}\` to be valid but received ${describe(received)}`, name);
  if (typeof wireDType !== 'string') throw fail('dtype', wireDType);
  const dtype = Object.hasOwn(SAFETENSORS_DTYPES, wireDType) ? SAFETENSORS_DTYPES[wireDType] : undefined;
  if (!dtype) {
    throw new UnsupportedFormatError(
      `Expected the dtype of \`${name}\` in \`${file.path}\` to be one of ${Object.keys(SAFETENSORS_DTYPES).join(', ')} but received ${describe(wireDType)}.`,
      { tensor: name, path: file.path, received: wireDType },
    );
  }
  if (!isCounts(shape) || shape.length > MAX_TENSOR_RANK) throw fail('shape', shape);
  if (!isCounts(offsets) || offsets.length !== 2) throw fail('data_offsets', offsets);
  const [begin, end] = offsets as [number, number];
  const byteLength = shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
  if (begin > end || !Number.isSafeInteger(byteLength) || end - begin !== byteLength) {
    throw damaged(
      file,
      `Expected tensor \`${name}\` (${wireDType}, shape [${shape.join(', ')}]) to take ${byteLength} bytes but its offsets are [${begin}, ${end}]`,
      name,
    );
  }
  if (dataStart + end > file.size) {
    throw damaged(
      file,
      `Expected tensor \`${name}\` to end at byte ${dataStart + end} but the file has ${file.size}: it is truncated`,
      name,
    );
  }
  return {
    entry: { name, dtype, shape, region: new FileRegion(name, file, dataStart + begin, byteLength) },
    begin,
    end,
  };
}

/** The format allows neither overlap nor gaps nor bytes that belong to nothing. */
function expectContiguous(file: ByteFile, entries: readonly PlacedEntry[], dataBytes: number): void {
  const sorted = [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  for (const { entry, begin, end } of sorted) {
    if (begin !== at) {
      throw damaged(
        file,
        `Expected tensor \`${entry.name}\` to begin at data byte ${at} but it begins at ${begin} (${begin < at ? 'overlap' : 'gap'})`,
        entry.name,
      );
    }
    at = end;
  }
  if (at !== dataBytes)
    throw damaged(file, `Expected the tensors to take all ${dataBytes} bytes of data but they take ${at}`);
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function damaged(file: ByteFile, sentence: string, tensor?: string): CheckpointError {
  return new CheckpointError(`${sentence}, in \`${file.path}\`. The file is damaged: download or copy it again.`, {
    path: file.path,
    ...(tensor !== undefined && { tensor }),
  });
}
