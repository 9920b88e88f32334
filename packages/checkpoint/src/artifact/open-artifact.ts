import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { CheckpointError } from '@qspec/core';
import { ByteFile, readSmallFile } from '../byte-file.js';
import type { Checkpoint, TensorInfo } from '../checkpoint.js';
import { FileCheckpoint } from '../file-checkpoint.js';
import { readModelConfig } from '../formats/hugging-face.js';
import { MAX_JSON_BYTES } from '../limits.js';
import { expectShape } from '../model-tensors.js';
import { FileRegion, type Region, VerifiedRegion } from '../region.js';
import type { SafetensorsFile } from '../safetensors.js';
import { sha256OfRegion } from '../sha256.js';
import { openShards, type ShardSet } from '../shard-index.js';
import { DenseTensor, type StoredTensor } from '../stored-tensor.js';
import { findTokenizerFiles } from '../tokenizer-files.js';
import { MANIFEST_FILE, type Manifest, type ManifestTensor, parseManifest } from './manifest.js';
import { listParts, quantizedParts, type StoredPart } from './part-names.js';
import { QuantizedTensor } from './quantized-tensor.js';

/**
 * Opens one of our artifacts. The manifest, every small file and the headers of the shards are checked now, each tensor's checksum
 * when it is read. @throws CheckpointError naming the file or tensor that is missing, truncated or altered.
 */
export async function openArtifact(folder: string): Promise<Checkpoint> {
  const manifest = await readManifest(folder);
  for (const [name, { headerSha256 }] of manifest.files) {
    if (headerSha256 === undefined) await verifyFile(folder, name, manifest);
  }
  const { config, rawConfig } = await readModelConfig(folder);
  const shards = await openShards(folder);
  try {
    for (const shard of shards.shards) expectHeader(shard, folder, manifest);
    return new FileCheckpoint({
      kind: 'artifact',
      path: folder,
      config,
      rawConfig,
      manifest: manifest.fields,
      tensors: joinTensors(folder, manifest, shards),
      tokenizerFiles: findTokenizerFiles(folder),
      closeFiles: shards.close,
    });
  } catch (error) {
    await shards.close();
    throw error;
  }
}

/**
 * Reads an artifact from end to end and compares every file with its checksum.
 * @param onFile called before each file @throws CheckpointError naming the first file that differs
 */
export async function verifyArtifact(folder: string, onFile?: (name: string) => void): Promise<void> {
  const manifest = await readManifest(folder);
  for (const name of manifest.files.keys()) {
    onFile?.(name);
    await verifyFile(folder, name, manifest);
  }
  await using checkpoint = await openArtifact(folder);
  void checkpoint;
}

async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, MANIFEST_FILE);
  return parseManifest(await readSmallFile(path, MAX_JSON_BYTES), path);
}

async function verifyFile(folder: string, name: string, manifest: Manifest): Promise<void> {
  const { bytes, sha256 } = manifest.files.get(name)!;
  const file = await ByteFile.open(join(folder, name));
  try {
    expectSize(file, bytes);
    expectDigest(file.path, sha256, await sha256OfRegion(new FileRegion(name, file, 0, bytes)));
  } finally {
    await file.close();
  }
}

function expectHeader(shard: SafetensorsFile, folder: string, manifest: Manifest): void {
  const { path } = shard.file;
  const expected = [...manifest.files].find(([name]) => join(folder, name) === path)?.[1];
  if (!expected?.headerSha256) {
    throw new CheckpointError(
      `Expected \`${path}\` to be listed in \`${MANIFEST_FILE}\` but it is not. Quantise the model again.`,
      { path },
    );
  }
  expectSize(shard.file, expected.bytes);
  expectDigest(path, expected.headerSha256, createHash('sha256').update(shard.headerBytes).digest('hex'));
}

function joinTensors(folder: string, manifest: Manifest, shards: ShardSet): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  for (const [name, tensor] of manifest.tensors) tensors.set(name, joinTensor(folder, name, tensor, shards));
  return tensors;
}

function joinTensor(folder: string, name: string, tensor: ManifestTensor, shards: ShardSet): StoredTensor {
  const { format, shape } = tensor;
  const part = (stored: Omit<StoredPart, 'dtype'> & { dtype?: string }): Region => {
    const entry = shards.entries.get(stored.name);
    const sha256 = tensor.parts.get(stored.name);
    if (!entry || sha256 === undefined) throw missing(stored.name, folder);
    expectShape({ name: stored.name, shape: entry.shape, file: entry.region.path }, stored.shape);
    if (stored.dtype !== undefined && entry.dtype !== stored.dtype) {
      throw new CheckpointError(
        `Expected \`${stored.name}\` in \`${entry.region.path}\` to be ${stored.dtype} but received ${entry.dtype}.`,
        { tensor: stored.name, path: entry.region.path },
      );
    }
    return new VerifiedRegion(entry.region, sha256);
  };
  if (format.kind === 'raw' || format.kind === 'dense') {
    const region = part({ name, shape, ...(format.kind === 'dense' && { dtype: format.dtype }) });
    const dtype = shards.entries.get(name)!.dtype;
    const hasFormat = format.kind === 'dense' && shape.length === 2;
    const info: TensorInfo = {
      name,
      shape,
      dtype,
      ...(hasFormat && { format }),
      storedBytes: region.byteLength,
      file: region.path,
    };
    return new DenseTensor(info, region);
  }
  return joinQuantized(name, shape, format, part);
}

function joinQuantized(
  name: string,
  shape: readonly number[],
  format: Extract<ManifestTensor['format'], { kind: 'int4' | 'nested8' }>,
  part: (stored: StoredPart) => Region,
): StoredTensor {
  const [numRows, numColumns] = shape;
  if (shape.length !== 2 || numColumns! % format.groupSize !== 0) {
    throw new CheckpointError(
      `Expected \`${name}\` to be a matrix whose rows are a multiple of ${format.groupSize} but received shape [${shape.join(', ')}].`,
      { tensor: name },
    );
  }
  const names = quantizedParts(name, [numRows!, numColumns!], format.groupSize, format.kind === 'nested8');
  const regions = {
    packed: part(names.packed),
    ...(names.lo && { lo: part(names.lo) }),
    scale: part(names.scale),
    shape: part(names.shape),
  };
  const storedBytes = listParts(names).reduce((sum, { name: _, ...stored }) => sum + bytesOf(stored), 0);
  const info: TensorInfo = { name, shape, dtype: format.kind, format, storedBytes, file: regions.packed.path };
  return new QuantizedTensor(info, format, regions);
}

function bytesOf({ dtype, shape }: Omit<StoredPart, 'name'>): number {
  return shape.reduce((product, size) => product * size, dtype === 'i64' ? 8 : dtype === 'i32' ? 4 : 2);
}

function missing(tensor: string, folder: string): CheckpointError {
  return new CheckpointError(
    `Expected \`${tensor}\` in \`${folder}\`, as \`${MANIFEST_FILE}\` says, but it is missing. Copy or quantise the artifact again.`,
    { tensor, path: folder },
  );
}

function expectSize(file: ByteFile, bytes: number): void {
  if (file.size === bytes) return;
  throw new CheckpointError(
    `Expected \`${file.path}\` to have ${bytes} bytes but it has ${file.size}: it is ${file.size < bytes ? 'truncated' : 'altered'}. Copy or quantise the artifact again.`,
    { path: file.path, expected: bytes, received: file.size },
  );
}

function expectDigest(path: string, expected: string, received: string): void {
  if (received === expected) return;
  throw new CheckpointError(
    `Expected \`${path}\` to have SHA-256 ${expected} but it has ${received}: the file was altered. Copy or quantise the artifact again.`,
    { path, expected, received },
  );
}
