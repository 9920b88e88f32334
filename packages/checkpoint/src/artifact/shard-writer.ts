import { createHash } from 'node:crypto';
import { DTYPE_BYTES, type DType } from '@qspec/core';
import { CHUNK_BYTES } from '../limits.js';
import { SAFETENSORS_DTYPES } from '../safetensors.js';
import { sha256OfBytes } from '../sha256.js';
import type { ArtifactFileSystem, WritableFile } from './file-system.js';

/** Data begins here in every shard: the header is written last, into space kept for it, and padded with blanks as the format allows. */
export const SHARD_DATA_START = 65_536;

const WIRE_DTYPES = new Map(Object.entries(SAFETENSORS_DTYPES).map(([wire, dtype]) => [dtype, wire]));

interface ShardTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/**
 * One safetensors file, written as tensors come. The format allows no gaps, yet readers want elements aligned: a tensor whose bytes
 * are no multiple of 8 waits in memory and goes to the end, widest elements first. Such tensors are rare and small.
 */
export class ShardWriter {
  private readonly entries: string[] = [];
  private readonly waiting: ShardTensor[] = [];
  private headerLength = 2;
  private dataBytes = 0;
  private waitingBytes = 0;

  private constructor(
    readonly name: string,
    private readonly file: WritableFile,
  ) {}

  static async create(fileSystem: ArtifactFileSystem, folder: string, name: string): Promise<ShardWriter> {
    return new ShardWriter(name, await fileSystem.createFile(`${folder}/${name}`));
  }

  get isEmpty(): boolean {
    return this.headerLength === 2;
  }

  /** Is there room for one more, in the header and under `maxBytes` of data? */
  hasRoomFor(name: string, numBytes: number, maxBytes: number): boolean {
    const headerLength = this.headerLength + entryLengthBound(name);
    return headerLength <= SHARD_DATA_START - 8 && this.dataBytes + this.waitingBytes + numBytes <= maxBytes;
  }

  /** @returns SHA-256 of the bytes */
  async add(tensor: ShardTensor): Promise<string> {
    this.headerLength += entryLengthBound(tensor.name);
    const sha256 = await sha256OfBytes(tensor.bytes);
    if (tensor.bytes.byteLength % 8 === 0) {
      await this.append(tensor);
    } else {
      this.waiting.push({ ...tensor, bytes: tensor.bytes.slice() });
      this.waitingBytes += tensor.bytes.byteLength;
    }
    return sha256;
  }

  /** Writes what waits and the header, and makes the file durable. */
  async finish(): Promise<{ bytes: number; headerSha256: string }> {
    this.waiting.sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
    for (const tensor of this.waiting) await this.append(tensor);
    const header = Buffer.alloc(SHARD_DATA_START, ' ');
    header.writeBigUInt64LE(BigInt(SHARD_DATA_START - 8));
    header.write(`{${this.entries.join(',')}}`, 8);
    await this.file.write(header, 0);
    await this.file.sync();
    await this.file.close();
    return {
      bytes: SHARD_DATA_START + this.dataBytes,
      headerSha256: createHash('sha256').update(header).digest('hex'),
    };
  }

  /** Lets go of the file, written or not. */
  async abandon(): Promise<void> {
    await this.file.close();
  }

  private async append({ name, dtype, shape, bytes }: ShardTensor): Promise<void> {
    const begin = this.dataBytes;
    for (let at = 0; at < bytes.byteLength; at += CHUNK_BYTES) {
      await this.file.write(bytes.subarray(at, at + CHUNK_BYTES), SHARD_DATA_START + begin + at);
    }
    this.dataBytes += bytes.byteLength;
    const entry = { dtype: WIRE_DTYPES.get(dtype), shape, data_offsets: [begin, this.dataBytes] };
    this.entries.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
  }
}

/** At least the length of the header's entry for a tensor of this name: offsets of 16 digits, up to 8 dimensions. */
function entryLengthBound(name: string): number {
  return Buffer.byteLength(JSON.stringify(name)) + 240;
}
