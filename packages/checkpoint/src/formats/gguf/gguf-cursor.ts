import { CheckpointError } from '@qspec/core';
import { MAX_GGUF_STRING_BYTES } from '../../limits.js';

/** The bytes read so far end before the header does. The caller reads more and begins again. */
export class NeedMoreBytes extends Error {}

/** Little-endian values one after another from the beginning of a GGUF file. */
export class GgufCursor {
  offset = 0;
  private readonly view: DataView;

  constructor(
    readonly path: string,
    private readonly bytes: Uint8Array,
    /** Of the whole file: nothing can be longer. */
    private readonly fileSize: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8 = (): number => this.view.getUint8(this.take(1));
  i8 = (): number => this.view.getInt8(this.take(1));
  u16 = (): number => this.view.getUint16(this.take(2), true);
  i16 = (): number => this.view.getInt16(this.take(2), true);
  u32 = (): number => this.view.getUint32(this.take(4), true);
  i32 = (): number => this.view.getInt32(this.take(4), true);
  f32 = (): number => this.view.getFloat32(this.take(4), true);
  f64 = (): number => this.view.getFloat64(this.take(8), true);
  u64 = (): bigint => this.view.getBigUint64(this.take(8), true);
  i64 = (): bigint => this.view.getBigInt64(this.take(8), true);

  /** A 64-bit count. @throws CheckpointError above `max`. */
  count(what: string, max: number): number {
    const value = this.u64();
    if (value > BigInt(max)) throw this.damaged(`Expected ${what} to be at most ${max} but received ${value}`);
    return Number(value);
  }

  string(): string {
    const begin = this.skipString();
    return new TextDecoder().decode(this.bytes.subarray(begin, this.offset));
  }

  /** @returns where its bytes begin. */
  skipString(): number {
    const length = this.count('the length of a string', MAX_GGUF_STRING_BYTES);
    return this.take(length);
  }

  /** Moves past `numBytes`. @returns where they begin. */
  take(numBytes: number): number {
    const begin = this.offset;
    const end = begin + numBytes;
    if (end > this.bytes.byteLength) {
      if (end > this.fileSize) {
        throw this.damaged(
          `Expected the header to go on to byte ${end} but the file has ${this.fileSize}: it is truncated`,
        );
      }
      throw new NeedMoreBytes();
    }
    this.offset = end;
    return begin;
  }

  damaged(sentence: string, details: Record<string, unknown> = {}): CheckpointError {
    return new CheckpointError(`${sentence}, in \`${this.path}\`. The file is damaged: download or copy it again.`, {
      path: this.path,
      ...details,
    });
  }
}
