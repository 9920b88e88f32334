import { dirname } from 'node:path';
import type { ArtifactFileSystem } from './file-system.js';

/** Renames `folder` to `path`. What is there is moved to `aside` first, put back if the rename fails, removed if it does not. */
export async function replaceFolder(
  fileSystem: ArtifactFileSystem,
  folder: string,
  path: string,
  aside: string | undefined,
): Promise<void> {
  await fileSystem.syncFolder(folder);
  if (aside !== undefined) await fileSystem.rename(path, aside);
  try {
    await fileSystem.rename(folder, path);
  } catch (error) {
    if (aside !== undefined) await fileSystem.rename(aside, path);
    throw error;
  }
  // The artifact is in place: what fails from here on is not worth losing it.
  await fileSystem.syncFolder(dirname(path)).catch(() => {});
  if (aside !== undefined) await fileSystem.remove(aside).catch(() => {});
}
