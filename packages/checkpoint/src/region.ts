import { createHash } from 'node:crypto';
import { CheckpointError } from '@qspec/core';
import type { ByteFile } from './byte-file.js';
import { CHUNK_BYTES } from './limits.js';

/** The bytes of one stored tensor, in the order that its reader expects. */
export interface Region {
  /** Tensor name, for messages. */
  readonly name: string;
  readonly path: string;
  readonly byteLength: number;
  /** Fills `target` from byte `begin` of the region. */
  read(target: Uint8Array, begin: number): Promise<void>;
}

/** A byte range of a file, taken as it is. */
export class FileRegion implements Region {
  constructor(
    readonly name: string,
    private readonly file: ByteFile,
    private readonly offset: number,
    readonly byteLength: number,
  ) {}

  get path(): string {
    return this.file.path;
  }

  read(target: Uint8Array, begin: number): Promise<void> {
    return this.file.read(target, this.offset + begin);
  }
}

/** Checks the whole region's SHA-256 before or while its first bytes are handed out. */
export class VerifiedRegion implements Region {
  readonly name: string;
  readonly path: string;
  readonly byteLength: number;
  private isVerified = false;
  private verification: Promise<void> | undefined;

  constructor(
    private readonly inner: Region,
    private readonly sha256: string,
  ) {
    this.name = inner.name;
    this.path = inner.path;
    this.byteLength = inner.byteLength;
  }

  async read(target: Uint8Array, begin: number): Promise<void> {
    const isWhole = begin === 0 && target.byteLength === this.byteLength;
    if (!this.isVerified && !isWhole) {
      this.verification ??= this.verify();
      await this.verification;
    }
    if (this.isVerified) return this.inner.read(target, begin);
    const hash = createHash('sha256');
    for (let at = 0; at < target.byteLength; at += CHUNK_BYTES) {
      const chunk = target.subarray(at, at + CHUNK_BYTES);
      await this.inner.read(chunk, at);
      hash.update(chunk);
    }
    this.expectDigest(hash.digest('hex'));
  }

  private async verify(): Promise<void> {
    const hash = createHash('sha256');
    await streamRegion(this.inner, 0, this.byteLength, CHUNK_BYTES, (chunk) => hash.update(chunk));
    this.expectDigest(hash.digest('hex'));
  }

  private expectDigest(received: string): void {
    if (received !== this.sha256) {
      throw new CheckpointError(
        `Expected \`${this.name}\` in \`${this.path}\` to have SHA-256 ${this.sha256} but it has ${received}: the file was altered. Copy or quantise it again.`,
        { tensor: this.name, path: this.path, expected: this.sha256, received },
      );
    }
    this.isVerified = true;
  }
}

/**
 * Calls `visit` with consecutive pieces of bytes [begin, end), each of `chunkBytes` but the last. A piece is valid until `visit`
 * returns and starts at an address that every typed array accepts.
 */
export async function streamRegion(
  region: Region,
  begin: number,
  end: number,
  chunkBytes: number,
  visit: (chunk: Uint8Array, offset: number) => void,
): Promise<void> {
  const buffer = new Uint8Array(Math.min(chunkBytes, end - begin));
  for (let at = begin; at < end; at += chunkBytes) {
    const chunk = buffer.subarray(0, Math.min(chunkBytes, end - at));
    await region.read(chunk, at);
    visit(chunk, at - begin);
  }
}

/** The whole region in memory of its own. */
export async function readRegion(region: Region): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(region.byteLength);
  await region.read(bytes, 0);
  return bytes;
}
