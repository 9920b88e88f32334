import { UnsupportedFormatError, type WeightSource } from '@qspec/core';
import type { TensorInfo } from '../../checkpoint.js';
import { CHUNK_BYTES } from '../../limits.js';
import { type Region, streamRegion } from '../../region.js';
import { expectMatrix, rowsOf, type StoredTensor } from '../../stored-tensor.js';
import type { BlockCodec } from './block-codecs.js';
import { GGML_TYPES } from './ggml-types.js';

/** Block-quantised elements, dequantised as they are read. */
export class BlockTensor implements StoredTensor {
  constructor(
    readonly info: TensorInfo,
    private readonly region: Region,
    private readonly codec: BlockCodec,
  ) {}

  async readRows(begin: number, end: number): Promise<Float32Array> {
    const { blockLength, blockBytes } = this.codec;
    const { rowLength } = rowsOf(this.info.shape);
    const values = new Float32Array((end - begin) * rowLength);
    const byteAt = (row: number): number => ((row * rowLength) / blockLength) * blockBytes;
    // A quarter of a chunk: unpacking costs more than a copy.
    const chunkBytes = Math.floor(CHUNK_BYTES / 4 / blockBytes) * blockBytes;
    await streamRegion(this.region, byteAt(begin), byteAt(end), chunkBytes, (chunk, offset) =>
      this.codec.decode(chunk, values, (offset / blockBytes) * blockLength),
    );
    return values;
  }

  async readSource(): Promise<WeightSource> {
    const { name } = this.info;
    const shape = expectMatrix(this.info);
    const values = await this.readRows(0, shape[0]);
    return { name, shape, format: { kind: 'dense', dtype: 'f32' }, data: new Uint8Array(values.buffer) };
  }
}

/** A tensor whose type cannot be read: seen, but every read says why not. */
export class UnreadableTensor implements StoredTensor {
  constructor(
    readonly info: TensorInfo,
    private readonly typeLabel: string,
  ) {}

  async readRows(): Promise<Float32Array> {
    throw this.unsupported();
  }

  async readSource(): Promise<WeightSource> {
    throw this.unsupported();
  }

  private unsupported(): UnsupportedFormatError {
    const supported = [...GGML_TYPES.values()].map((type) => type.label).join(', ');
    return new UnsupportedFormatError(
      `Expected tensor \`${this.info.name}\` in \`${this.info.file}\` to be one of ${supported} but received ${this.typeLabel}. Use a file of another quantisation, Q8_0 for instance.`,
      { tensor: this.info.name, path: this.info.file, received: this.typeLabel },
    );
  }
}
