import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../../testing/temporary-folder.js';
import { writeTinyArtifact } from '../../testing/tiny-artifact.js';
import { createArtifactWriter } from './create-artifact-writer.js';
import { type ArtifactFileSystem, nodeFileSystem } from './file-system.js';
import { verifyArtifact } from './open-artifact.js';

/** Fails with `code` at the n-th operation that changes the disk. */
function failingFileSystem(
  failAt: number,
  code: string,
): ArtifactFileSystem & { readonly numOperations: () => number } {
  let count = 0;
  const act = <T>(run: () => Promise<T>): Promise<T> => {
    if (count++ !== failAt) return run();
    return Promise.reject(Object.assign(new Error(`${code}: injected`), { code, syscall: 'write' }));
  };
  return {
    numOperations: () => count,
    createFolder: (path) => act(() => nodeFileSystem.createFolder(path)),
    rename: (from, to) => act(() => nodeFileSystem.rename(from, to)),
    remove: (path) => nodeFileSystem.remove(path),
    removeSync: (path) => nodeFileSystem.removeSync(path),
    syncFolder: (path) => nodeFileSystem.syncFolder(path),
    createFile: (path) =>
      act(async () => {
        const file = await nodeFileSystem.createFile(path);
        return {
          write: (bytes, position) => act(() => file.write(bytes, position)),
          sync: () => act(() => file.sync()),
          close: () => file.close(),
        };
      }),
  };
}

async function countOperations(path: string): Promise<number> {
  const fileSystem = failingFileSystem(-1, '');
  await writeTinyArtifact(path, { fileSystem, overwrite: true });
  return fileSystem.numOperations();
}

describe('a disk that fails while an artifact is written', () => {
  it('gives a CheckpointError with the remedy and leaves nothing behind, whichever operation fails', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await using scratch = await temporaryFolder();
    const numOperations = await countOperations(join(scratch.path, 'artifact'));
    expect(numOperations).toBeGreaterThan(15);
    for (let failAt = 0; failAt < numOperations; failAt++) {
      const fileSystem = failingFileSystem(failAt, 'ENOSPC');
      const error: unknown = await writeTinyArtifact(path, { fileSystem }).catch((caught: unknown) => caught);
      if (!(error instanceof CheckpointError)) expect.fail(`operation ${failAt}: ${String(error)}`);
      expect(error.message).toMatch(/disk is full\. Free space/);
      expect(error.details).toMatchObject({ path, reason: 'ENOSPC' });
      expect((await readdir(folder.path)).filter((name) => name !== 'tokenizer.json')).toEqual([]);
    }
  });

  it('keeps the artifact that was to be replaced', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await writeTinyArtifact(path);
    await using scratch = await temporaryFolder();
    const copy = join(scratch.path, 'artifact');
    await writeTinyArtifact(copy);
    const numOperations = await countOperations(copy);
    for (let failAt = 0; failAt < numOperations; failAt++) {
      const fileSystem = failingFileSystem(failAt, 'EIO');
      await expect(writeTinyArtifact(path, { fileSystem, overwrite: true })).rejects.toThrow(CheckpointError);
      await verifyArtifact(path);
      expect(await readdir(folder.path)).toEqual(['artifact', 'tokenizer.json']);
    }
  });

  it('says which folder is missing', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'no', 'artifact');
    const error = await createArtifactWriter(path, { config: {}, recipe: {} }).catch((caught: unknown) => caught);
    expect(String(error)).toMatch(/does not exist\. Create it/);
  });
});
