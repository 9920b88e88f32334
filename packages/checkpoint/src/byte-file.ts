import { type FileHandle, open } from 'node:fs/promises';
import { CheckpointError, DisposedError } from '@qspec/core';
import { CHUNK_BYTES } from './limits.js';

/** A file open for reading at any position. Reads may run concurrently. */
export class ByteFile {
  private constructor(
    readonly path: string,
    /** Bytes, when it was opened. */
    readonly size: number,
    private handle: FileHandle | undefined,
  ) {}

  /** @throws CheckpointError when it is not there, not readable or not a file. */
  static async open(path: string): Promise<ByteFile> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, 'r');
      const stats = await handle.stat();
      if (!stats.isFile()) throw new Error('it is not a regular file');
      return new ByteFile(path, stats.size, handle);
    } catch (error) {
      await handle?.close();
      throw readError(path, error);
    }
  }

  /** Fills `target` from `position`, a piece at a time. @throws CheckpointError when the file ends before. */
  async read(target: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < target.byteLength; ) {
      if (!this.handle) throw new DisposedError(`Expected \`${this.path}\` to be open but the checkpoint was closed.`);
      const length = Math.min(CHUNK_BYTES, target.byteLength - done);
      const { bytesRead } = await this.handle.read(target, done, length, position + done).catch((error: unknown) => {
        throw readError(this.path, error);
      });
      if (bytesRead === 0) throw this.truncated(position + target.byteLength);
      done += bytesRead;
    }
  }

  async close(): Promise<void> {
    const handle = this.handle;
    this.handle = undefined;
    await handle?.close();
  }

  private truncated(expectedBytes: number): CheckpointError {
    return new CheckpointError(
      `Expected \`${this.path}\` to have at least ${expectedBytes} bytes but it ends before: it is truncated. Download or copy it again.`,
      { path: this.path, expectedBytes },
    );
  }
}

/** A whole small file. @throws CheckpointError when it cannot be read or is larger than `maxBytes`. */
export async function readSmallFile(path: string, maxBytes: number): Promise<Uint8Array> {
  const file = await ByteFile.open(path);
  try {
    if (file.size > maxBytes) {
      throw new CheckpointError(`Expected \`${path}\` to have at most ${maxBytes} bytes but it has ${file.size}.`, {
        path,
        maxBytes,
        received: file.size,
      });
    }
    const bytes = new Uint8Array(file.size);
    await file.read(bytes, 0);
    return bytes;
  } finally {
    await file.close();
  }
}

function readError(path: string, cause: unknown): CheckpointError {
  if (cause instanceof CheckpointError) return cause;
  const reason =
    errorCode(cause) === 'ENOENT' ? 'there is no such file' : cause instanceof Error ? cause.message : String(cause);
  return new CheckpointError(`Expected to read \`${path}\` but ${reason}.`, { path }, cause);
}

export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
