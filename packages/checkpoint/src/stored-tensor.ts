import { ShapeMismatchError, UnsupportedFormatError, type WeightSource } from '@qspec/core';
import type { TensorInfo } from './checkpoint.js';
import { convertFloats, isFloatDType } from './float-conversion.js';
import { CHUNK_BYTES } from './limits.js';
import { type Region, readRegion, streamRegion } from './region.js';

/** One logical tensor of a checkpoint, whatever it is stored as. Arguments were checked by the caller. */
export interface StoredTensor {
  readonly info: TensorInfo;
  readRows(begin: number, end: number): Promise<Float32Array>;
  readSource(): Promise<WeightSource>;
}

/** Rows of a tensor and elements of one: a vector's rows are its elements, a scalar is one row. */
export function rowsOf(shape: readonly number[]): { numRows: number; rowLength: number } {
  const numElements = shape.reduce((product, size) => product * size, 1);
  const numRows = shape[0] ?? 1;
  return { numRows, rowLength: numRows === 0 ? 0 : numElements / numRows };
}

export function expectMatrix(info: TensorInfo): readonly [number, number] {
  const [numRows, numColumns] = info.shape;
  if (info.shape.length === 2) return [numRows!, numColumns!];
  throw new ShapeMismatchError(
    `Expected \`${info.name}\` in \`${info.file}\` to be a matrix but received shape [${info.shape.join(', ')}].`,
    { tensor: info.name, path: info.file, received: info.shape },
  );
}

/** Floating-point elements as they are. */
export class DenseTensor implements StoredTensor {
  constructor(
    readonly info: TensorInfo,
    private readonly region: Region,
  ) {}

  async readRows(begin: number, end: number): Promise<Float32Array> {
    const { dtype } = this.info;
    if (!isFloatDType(dtype)) throw notFloat(this.info);
    const { rowLength } = rowsOf(this.info.shape);
    const elementBytes = dtype === 'f32' ? 4 : 2;
    const values = new Float32Array((end - begin) * rowLength);
    const rowBytes = rowLength * elementBytes;
    if (dtype === 'f32') {
      await this.region.read(new Uint8Array(values.buffer), begin * rowBytes);
      return values;
    }
    await streamRegion(this.region, begin * rowBytes, end * rowBytes, CHUNK_BYTES, (chunk, offset) =>
      convertFloats(dtype, chunk, values, offset / elementBytes),
    );
    return values;
  }

  async readSource(): Promise<WeightSource> {
    const { dtype, name } = this.info;
    const shape = expectMatrix(this.info);
    if (!isFloatDType(dtype)) throw notFloat(this.info);
    return { name, shape, format: { kind: 'dense', dtype }, data: await readRegion(this.region) };
  }
}

function notFloat(info: TensorInfo): UnsupportedFormatError {
  return new UnsupportedFormatError(
    `Expected \`${info.name}\` in \`${info.file}\` to hold floating-point numbers (F32, F16 or BF16) but received ${info.dtype}.`,
    { tensor: info.name, path: info.file, received: info.dtype },
  );
}
