import type { DType } from '@qspec/core';
import { sha256OfFile } from '../sha256.js';
import { INDEX_FILE, SINGLE_FILE } from '../shard-index.js';
import type { ArtifactFileSystem } from './file-system.js';
import type { ManifestFile } from './manifest.js';
import { ShardWriter } from './shard-writer.js';

export interface FinishedShards {
  readonly files: ReadonlyMap<string, ManifestFile>;
  /** Contents of the shard index; undefined when there is one shard. */
  readonly index?: { readonly name: string; readonly bytes: Uint8Array };
}

/** All shards of an artifact: begins a new one when the last is full, names them when their number is known. */
export class ShardSeries {
  private readonly finished: { readonly name: string; readonly bytes: number; readonly headerSha256: string }[] = [];
  private readonly shardOf = new Map<string, string>();
  private current: ShardWriter | undefined;

  constructor(
    private readonly fileSystem: ArtifactFileSystem,
    private readonly folder: string,
    private readonly maxShardBytes: number,
  ) {}

  /** @returns SHA-256 of the bytes */
  async add(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array): Promise<string> {
    const { current } = this;
    if (current && !current.isEmpty && !current.hasRoomFor(name, bytes.byteLength, this.maxShardBytes)) {
      await this.finishCurrent();
    }
    this.current ??= await ShardWriter.create(
      this.fileSystem,
      this.folder,
      `shard-${this.finished.length}.safetensors`,
    );
    this.shardOf.set(name, this.current.name);
    return this.current.add({ name, dtype, shape, bytes });
  }

  /** Gives the shards the names that Hugging Face tools look for. */
  async finish(): Promise<FinishedShards> {
    await this.finishCurrent();
    const count = this.finished.length;
    const finalNames = new Map<string, string>();
    const files = new Map<string, ManifestFile>();
    for (const [position, { name, bytes, headerSha256 }] of this.finished.entries()) {
      const finalName = count === 1 ? SINGLE_FILE : `model-${digits(position + 1)}-of-${digits(count)}.safetensors`;
      await this.fileSystem.rename(`${this.folder}/${name}`, `${this.folder}/${finalName}`);
      finalNames.set(name, finalName);
      files.set(finalName, { bytes, sha256: await sha256OfFile(`${this.folder}/${finalName}`), headerSha256 });
    }
    return count > 1 ? { files, index: this.index(finalNames, files) } : { files };
  }

  /** Lets go of the open file. Never fails. */
  async abandon(): Promise<void> {
    await this.current?.abandon().catch(() => {});
  }

  private async finishCurrent(): Promise<void> {
    if (!this.current) return;
    this.finished.push({ name: this.current.name, ...(await this.current.finish()) });
    this.current = undefined;
  }

  private index(
    finalNames: ReadonlyMap<string, string>,
    files: ReadonlyMap<string, ManifestFile>,
  ): NonNullable<FinishedShards['index']> {
    const weightMap = [...this.shardOf].map(([tensor, shard]) => [tensor, finalNames.get(shard)!]);
    const totalSize = [...files.values()].reduce((sum, { bytes }) => sum + bytes, 0);
    const fields = { metadata: { total_size: totalSize }, weight_map: Object.fromEntries(weightMap) };
    return { name: INDEX_FILE, bytes: Buffer.from(`${JSON.stringify(fields, null, 1)}\n`) };
  }
}

function digits(value: number): string {
  return String(value).padStart(5, '0');
}
