import { rmSync } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';

/** The writes that an artifact is made of; tests hand in one that fails. Errors are Node's own (`code`: `ENOSPC`, …). */
export interface ArtifactFileSystem {
  /** The folder must not exist, its parent must. */
  createFolder(path: string): Promise<void>;
  /** The file must not exist. */
  createFile(path: string): Promise<WritableFile>;
  rename(from: string, to: string): Promise<void>;
  /** Whole tree; nothing there is fine. */
  remove(path: string): Promise<void>;
  /** As {@link remove}, at once: for exit handlers. */
  removeSync(path: string): void;
  /** Makes what was created or renamed in this folder durable. */
  syncFolder(path: string): Promise<void>;
}

export interface WritableFile {
  /** Writes all of `bytes` at `position`. */
  write(bytes: Uint8Array, position: number): Promise<void>;
  /** Makes the contents durable. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export const nodeFileSystem: ArtifactFileSystem = {
  async createFolder(path) {
    await mkdir(path);
  },
  async createFile(path) {
    const handle = await open(path, 'wx');
    return {
      async write(bytes, position) {
        for (let done = 0; done < bytes.byteLength; ) {
          done += (await handle.write(bytes, done, bytes.byteLength - done, position + done)).bytesWritten;
        }
      },
      sync: () => handle.sync(),
      close: () => handle.close(),
    };
  },
  rename: (from, to) => rename(from, to),
  remove: (path) => rm(path, { recursive: true, force: true }),
  removeSync: (path) => rmSync(path, { recursive: true, force: true }),
  async syncFolder(path) {
    if (process.platform === 'win32') return; // folders cannot be opened there
    const handle = await open(path, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
};
