import { basename } from 'node:path';
import {
  ConfigError,
  DisposedError,
  DTYPE_BYTES,
  type DType,
  type Int4WeightSource,
  InvariantError,
  type Nested8WeightSource,
  ShapeMismatchError,
} from '@qspec/core';
import type { ArtifactSummary, ArtifactWriter, ArtifactWriterOptions, JsonObject } from '../artifact-writer.js';
import { errorCode, readSmallFile } from '../byte-file.js';
import { isFloatDType } from '../float-conversion.js';
import { MAX_COPIED_FILE_BYTES } from '../limits.js';
import { sha256OfBytes } from '../sha256.js';
import { INDEX_FILE } from '../shard-index.js';
import { diskError } from './disk-error.js';
import type { ArtifactFileSystem } from './file-system.js';
import { MANIFEST_FILE, type ManifestFile, type ManifestTensor } from './manifest.js';
import { manifestBytes } from './manifest-bytes.js';
import { listParts, quantizedParts, type StoredPart } from './part-names.js';
import { quantizationConfig } from './quantization-config.js';
import { replaceFolder } from './replace-folder.js';
import type { ShardSeries } from './shard-series.js';
import { expectWritableTarget } from './target-folder.js';

type PartBytes = readonly [StoredPart, Uint8Array];

const RESERVED_NAMES = new Set(['config.json', MANIFEST_FILE, INDEX_FILE]);

/** Writes into `folder` until `commit` renames it to `path`. */
export class FolderArtifactWriter implements ArtifactWriter {
  private readonly tensors = new Map<string, ManifestTensor>();
  private readonly files = new Map<string, ManifestFile>();
  private report: JsonObject | undefined;
  private pending: Promise<unknown> = Promise.resolve();
  private state: 'open' | 'busy' | 'committed' | 'aborted' = 'open';

  constructor(
    readonly path: string,
    private readonly folder: string,
    private readonly fileSystem: ArtifactFileSystem,
    private readonly shards: ShardSeries,
    private readonly options: ArtifactWriterOptions,
  ) {}

  addDense(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array): Promise<void> {
    const format = isFloatDType(dtype) ? ({ kind: 'dense', dtype } as const) : ({ kind: 'raw' } as const);
    return this.step(() => this.addTensor(name, shape, format, [[{ name, dtype, shape }, bytes]]));
  }

  addInt4(source: Int4WeightSource): Promise<void> {
    return this.step(() => this.addTensor(source.name, source.shape, source.format, partBytes(source, undefined)));
  }

  addNested8(source: Nested8WeightSource): Promise<void> {
    return this.step(() => this.addTensor(source.name, source.shape, source.format, partBytes(source, source.lo)));
  }

  copyFile(from: string, name = basename(from)): Promise<void> {
    return this.step(async () => {
      const isFree = !RESERVED_NAMES.has(name) && !name.endsWith('.safetensors') && !this.files.has(name);
      if (!isFree || basename(name) !== name) {
        throw new ConfigError(`Expected \`name\` to be a free file name but received \`${name}\`.`, {
          option: 'name',
          received: name,
        });
      }
      await this.writeFile(name, await readSmallFile(from, MAX_COPIED_FILE_BYTES));
    });
  }

  setReport(report: JsonObject): void {
    this.report = report;
  }

  commit(): Promise<ArtifactSummary> {
    return this.step(async () => {
      const shards = await this.shards.finish();
      for (const [name, file] of shards.files) this.files.set(name, file);
      if (shards.index) await this.writeFile(shards.index.name, shards.index.bytes);
      await this.writeFile('config.json', this.configBytes());
      const extra = { ...this.options, report: this.report };
      await this.writeFile(MANIFEST_FILE, manifestBytes(this.tensors, this.files, extra));
      this.expectOpen();
      const isOccupied = await expectWritableTarget(this.path, this.options.overwrite ?? false);
      const aside = isOccupied ? this.folder.replace('.partial-', '.replaced-') : undefined;
      await replaceFolder(this.fileSystem, this.folder, this.path, aside);
      this.state = 'committed';
      const totalBytes = [...this.files.values()].reduce((sum, file) => sum + file.bytes, 0);
      return { path: this.path, totalBytes, numTensors: this.tensors.size, numShards: shards.files.size };
    });
  }

  abort(): void {
    if (this.state === 'committed' || this.state === 'aborted') return;
    this.state = 'aborted';
    this.fileSystem.removeSync(this.folder);
    void this.shards.abandon();
  }

  /** Lets the call in flight end first: `return writer.commit()` out of an `await using` block is a commit. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.pending;
    if (this.state !== 'committed') await this.fail();
  }

  private step<T>(run: () => Promise<T>): Promise<T> {
    const result = this.exclusive(run);
    if (this.state === 'busy') this.pending = result.catch(() => {});
    return result;
  }

  /** One public call: alone, on an open writer; whatever goes wrong ends the writer and removes the folder. */
  private async exclusive<T>(run: () => Promise<T>): Promise<T> {
    if (this.state === 'busy') {
      throw new InvariantError(`Expected calls of the artifact writer for \`${this.path}\` to be awaited one by one.`);
    }
    this.expectOpen();
    this.state = 'busy';
    try {
      const result = await run();
      if (this.isAborted()) throw this.disposed();
      if (this.state === 'busy') this.state = 'open';
      return result;
    } catch (error) {
      const wasAborted = this.isAborted();
      await this.fail();
      if (wasAborted) throw this.disposed();
      throw errorCode(error)?.startsWith('E') ? diskError(this.path, error) : error;
    }
  }

  private async fail(): Promise<void> {
    this.state = 'aborted';
    await this.shards.abandon();
    await this.fileSystem.remove(this.folder).catch(() => {});
  }

  /** A method, so that the compiler does not take the state for unchanged across an await. */
  private isAborted(): boolean {
    return this.state === 'aborted';
  }

  private expectOpen(): void {
    if (this.state === 'aborted' || this.state === 'committed') throw this.disposed();
  }

  private disposed(): DisposedError {
    return new DisposedError(`Expected the artifact writer for \`${this.path}\` to be open but it was ${this.state}.`, {
      path: this.path,
    });
  }

  private async addTensor(
    name: string,
    shape: readonly number[],
    format: ManifestTensor['format'],
    parts: readonly PartBytes[],
  ): Promise<void> {
    if (this.tensors.has(name)) {
      throw new ConfigError(`Expected each tensor once but received \`${name}\` twice.`, { tensor: name });
    }
    for (const [part, bytes] of parts) expectBytes(part, bytes);
    const checksums = new Map<string, string>();
    for (const [part, bytes] of parts) {
      checksums.set(part.name, await this.shards.add(part.name, part.dtype, part.shape, bytes));
      this.expectOpen();
    }
    this.tensors.set(name, { format, shape, parts: checksums });
  }

  private configBytes(): Uint8Array {
    const quantization = quantizationConfig(this.tensors);
    const { quantization_config: _, ...config } = this.options.config;
    const fields = { ...config, ...(quantization && { quantization_config: quantization }) };
    return Buffer.from(`${JSON.stringify(fields, null, 2)}\n`);
  }

  private async writeFile(name: string, bytes: Uint8Array): Promise<void> {
    const file = await this.fileSystem.createFile(`${this.folder}/${name}`);
    try {
      await file.write(bytes, 0);
      await file.sync();
    } finally {
      await file.close();
    }
    this.files.set(name, { bytes: bytes.byteLength, sha256: await sha256OfBytes(bytes) });
  }
}

function partBytes(source: Int4WeightSource | Nested8WeightSource, lo: Int32Array | undefined): PartBytes[] {
  const { name, shape, format } = source;
  if (shape[1] % format.groupSize !== 0) {
    throw new ConfigError(
      `Expected \`groupSize\` to divide K = ${shape[1]} of \`${name}\` but received ${format.groupSize}.`,
      { option: 'groupSize', tensor: name, received: format.groupSize },
    );
  }
  const storedShape = new BigInt64Array([BigInt(shape[0]), BigInt(shape[1])]);
  const arrays = [source.hi, ...(lo ? [lo] : []), source.scales, storedShape];
  const parts = listParts(quantizedParts(name, shape, format.groupSize, lo !== undefined));
  return parts.map((part, i) => [part, bytesOf(arrays[i]!)]);
}

function bytesOf(array: Int32Array | Uint16Array | BigInt64Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function expectBytes(part: StoredPart, bytes: Uint8Array): void {
  const expected = part.shape.reduce((product, size) => product * size, DTYPE_BYTES[part.dtype]);
  if (bytes.byteLength === expected) return;
  throw new ShapeMismatchError(
    `Expected \`${part.name}\` (${part.dtype}, shape [${part.shape.join(', ')}]) to have ${expected} bytes but received ${bytes.byteLength}.`,
    { tensor: part.name, expected, received: bytes.byteLength },
  );
}
