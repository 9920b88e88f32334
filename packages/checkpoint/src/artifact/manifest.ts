import { createHash } from 'node:crypto';
import { CheckpointError, GROUP_SIZES, type GroupSize, UnsupportedFormatError, type WeightFormat } from '@qspec/core';
import { describe, expectObject, isObject, parseJsonObject, type UnknownFields } from '../json.js';

export const MANIFEST_FILE = 'qspec.json';
export const MANIFEST_FORMAT = 'qspec-artifact';
export const FORMAT_VERSION = 1;

/** One logical tensor: what it means, and the SHA-256 of each stored tensor that it is made of. */
export interface ManifestTensor {
  readonly format: WeightFormat | { readonly kind: 'raw' };
  readonly shape: readonly number[];
  /** Stored name (`X.weight_packed`) to SHA-256 of its bytes. */
  readonly parts: ReadonlyMap<string, string>;
}

export interface ManifestFile {
  readonly bytes: number;
  readonly sha256: string;
  /** Safetensors only: of the length word and header, which the checksums of tensors leave out. */
  readonly headerSha256?: string;
}

export interface Manifest {
  readonly tensors: ReadonlyMap<string, ManifestTensor>;
  readonly files: ReadonlyMap<string, ManifestFile>;
  /** All fields as they stand in the file. */
  readonly fields: UnknownFields;
}

const SELF_FIELD = '"self_sha256": "';
const DIGEST_LENGTH = 64;

/** The file's text with its own checksum: SHA-256 of itself with zeros in the checksum's place. `self_sha256` is the last field. */
export function sealManifest(fields: UnknownFields): Uint8Array {
  const text = JSON.stringify({ ...fields, self_sha256: '0'.repeat(DIGEST_LENGTH) }, null, 1);
  const bytes = Buffer.from(`${text}\n`);
  const at = bytes.lastIndexOf(SELF_FIELD) + SELF_FIELD.length;
  bytes.write(createHash('sha256').update(bytes).digest('hex'), at, 'latin1');
  return bytes;
}

/** @throws CheckpointError when the checksum or a field is wrong; UnsupportedFormatError for a newer format version. */
export function parseManifest(bytes: Uint8Array, path: string): Manifest {
  expectSealed(bytes, path);
  const fields = parseJsonObject(bytes, path);
  if (fields['format'] !== MANIFEST_FORMAT) throw invalid(path, 'format', `\`${MANIFEST_FORMAT}\``, fields['format']);
  if (fields['format_version'] !== FORMAT_VERSION) {
    throw new UnsupportedFormatError(
      `Expected \`format_version\` in \`${path}\` to be ${FORMAT_VERSION} but received ${describe(fields['format_version'])}. Quantise the model again with this version of qspec, or update qspec.`,
      { path, received: fields['format_version'] },
    );
  }
  const tensors = Object.entries(expectObject(fields['tensors'], 'tensors', path));
  const files = Object.entries(expectObject(fields['files'], 'files', path));
  return {
    fields,
    tensors: new Map(tensors.map(([name, value]) => [name, parseTensor(name, value, path)])),
    files: new Map(files.map(([name, value]) => [name, parseFile(name, value, path)])),
  };
}

function expectSealed(bytes: Uint8Array, path: string): void {
  const copy = Buffer.from(bytes);
  const field = copy.lastIndexOf(SELF_FIELD);
  const at = field + SELF_FIELD.length;
  const received = copy.toString('latin1', at, at + DIGEST_LENGTH);
  copy.fill('0', at, at + DIGEST_LENGTH);
  if (field >= 0 && createHash('sha256').update(copy).digest('hex') === received) return;
  throw new CheckpointError(
    `Expected \`${path}\` to match its own checksum (\`self_sha256\`) but it does not: the file was altered. Copy or quantise the artifact again.`,
    { path },
  );
}

function parseTensor(name: string, value: unknown, path: string): ManifestTensor {
  const fields = expectObject(value, `tensors.${name}`, path);
  const shape = fields['shape'];
  if (!Array.isArray(shape) || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw invalid(path, `tensors.${name}.shape`, 'a list of sizes', shape);
  }
  const parts = Object.entries(expectObject(fields['parts'], `tensors.${name}.parts`, path));
  for (const [part, sha256] of parts) if (!isDigest(sha256)) throw invalid(path, part, 'a SHA-256', sha256);
  return { format: parseFormat(name, fields, path), shape, parts: new Map(parts as [string, string][]) };
}

function parseFormat(name: string, fields: UnknownFields, path: string): ManifestTensor['format'] {
  const { format: kind, dtype, group_size: groupSize, hadamard_block: hadamardBlock, radix } = fields;
  if (kind === 'raw') return { kind };
  if (kind === 'dense') {
    if (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') return { kind, dtype };
    throw invalid(path, `tensors.${name}.dtype`, 'f32, f16 or bf16', dtype);
  }
  if (kind !== 'int4' && kind !== 'nested8') throw invalid(path, `tensors.${name}.format`, 'a known format', kind);
  if (!GROUP_SIZES.includes(groupSize as GroupSize)) {
    throw invalid(path, `tensors.${name}.group_size`, `one of ${GROUP_SIZES.join(', ')}`, groupSize);
  }
  if (!Number.isInteger(hadamardBlock) || (hadamardBlock as number) < 0) {
    throw invalid(path, `tensors.${name}.hadamard_block`, 'an integer from 0', hadamardBlock);
  }
  const base = { groupSize: groupSize as GroupSize, hadamardBlock: hadamardBlock as number };
  if (kind === 'int4') return { kind, ...base };
  if (Number.isInteger(radix) && (radix as number) >= 8 && (radix as number) <= 15) {
    return { kind, ...base, radix: radix as number };
  }
  throw invalid(path, `tensors.${name}.radix`, 'an integer from 8 to 15', radix);
}

function parseFile(name: string, value: unknown, path: string): ManifestFile {
  const { bytes, sha256, header_sha256: headerSha256 } = isObject(value) ? value : {};
  if (!/^[^/\\:]+$/.test(name) || name === '..' || !Number.isSafeInteger(bytes) || !isDigest(sha256)) {
    throw invalid(path, `files.${name}`, 'a file name with size and SHA-256', value);
  }
  return { bytes: bytes as number, sha256, ...(isDigest(headerSha256) && { headerSha256 }) };
}

function isDigest(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function invalid(path: string, field: string, expected: string, received: unknown): CheckpointError {
  return new CheckpointError(
    `Expected \`${field}\` in \`${path}\` to be ${expected} but received ${describe(received)}.`,
    {
      path,
      field,
      received,
    },
  );
}
