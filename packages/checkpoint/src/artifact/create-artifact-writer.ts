import { randomBytes } from 'node:crypto';
import { basename, dirname, join, resolve } from 'node:path';
import { expectInteger } from '@qspec/core';
import type { ArtifactWriter, ArtifactWriterOptions } from '../artifact-writer.js';
import { diskError } from './disk-error.js';
import { nodeFileSystem } from './file-system.js';
import { FolderArtifactWriter } from './folder-artifact-writer.js';
import { ShardSeries } from './shard-series.js';
import { expectWritableTarget } from './target-folder.js';

const DEFAULT_SHARD_BYTES = 2 * 1024 ** 3;

/**
 * Begins an artifact at `path`; nothing appears there before `commit`. `await using` removes what was written when it is not reached.
 * @throws ConfigError when something is there that may not be replaced; CheckpointError when no folder can be made beside it.
 */
export async function createArtifactWriter(path: string, options: ArtifactWriterOptions): Promise<ArtifactWriter> {
  const target = resolve(path);
  const fileSystem = options.fileSystem ?? nodeFileSystem;
  const maxShardBytes = options.maxShardBytes ?? DEFAULT_SHARD_BYTES;
  expectInteger('maxShardBytes', maxShardBytes, 1, Number.MAX_SAFE_INTEGER);
  await expectWritableTarget(target, options.overwrite ?? false);
  const unique = `${process.pid}-${randomBytes(4).toString('hex')}`;
  const folder = join(dirname(target), `.${basename(target)}.partial-${unique}`);
  try {
    await fileSystem.createFolder(folder);
  } catch (error) {
    throw diskError(target, error);
  }
  const shards = new ShardSeries(fileSystem, folder, maxShardBytes);
  return new FolderArtifactWriter(target, folder, fileSystem, shards, options);
}
