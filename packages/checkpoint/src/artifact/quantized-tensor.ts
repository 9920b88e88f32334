import { setImmediate as nextTurn } from 'node:timers/promises';
import { bf16ToFloat, CheckpointError, type Int4Format, type Nested8Format, type WeightSource } from '@qspec/core';
import type { TensorInfo } from '../checkpoint.js';
import { type Region, readRegion } from '../region.js';
import { expectMatrix, type StoredTensor } from '../stored-tensor.js';

export interface QuantizedRegions {
  readonly packed: Region;
  readonly lo?: Region;
  readonly scale: Region;
  readonly shape: Region;
}

/** Elements dequantised between two turns of the event loop: about 5 ms. */
const ELEMENTS_PER_TURN = 1024 * 1024;

/** An int4 or nested8 matrix of an artifact. */
export class QuantizedTensor implements StoredTensor {
  constructor(
    readonly info: TensorInfo,
    private readonly format: Int4Format | Nested8Format,
    private readonly regions: QuantizedRegions,
  ) {}

  async readSource(): Promise<WeightSource> {
    const { format, regions } = this;
    const shape = expectMatrix(this.info);
    await this.expectStoredShape(shape);
    const base = { name: this.info.name, shape };
    const hi = new Int32Array((await readRegion(regions.packed)).buffer);
    const scales = new Uint16Array((await readRegion(regions.scale)).buffer);
    if (format.kind === 'int4') return { ...base, format, hi, scales };
    const lo = new Int32Array((await readRegion(regions.lo!)).buffer);
    return { ...base, format, hi, lo, scales };
  }

  async readRows(begin: number, end: number): Promise<Float32Array> {
    const [, numColumns] = expectMatrix(this.info);
    const rowsPerTurn = Math.max(1, Math.floor(ELEMENTS_PER_TURN / numColumns));
    const values = new Float32Array((end - begin) * numColumns);
    for (let row = begin; row < end; row += rowsPerTurn) {
      const last = Math.min(end, row + rowsPerTurn);
      await this.readPiece(row, last, values.subarray((row - begin) * numColumns, (last - begin) * numColumns));
      await nextTurn();
    }
    return values;
  }

  private async readPiece(begin: number, end: number, target: Float32Array): Promise<void> {
    const [, numColumns] = expectMatrix(this.info);
    const { format, regions } = this;
    const hi = new Int32Array(await readPart(regions.packed, begin, end, numColumns / 2));
    const scales = new Uint16Array(await readPart(regions.scale, begin, end, (numColumns / format.groupSize) * 2));
    const lo = regions.lo && new Int32Array(await readPart(regions.lo, begin, end, numColumns / 2));
    const radix = format.kind === 'nested8' ? format.radix : 1;
    for (let group = 0; group < scales.length; group++) {
      const step = bf16ToFloat(scales[group]!) / radix;
      const first = group * format.groupSize;
      for (let i = first; i < first + format.groupSize; i++) {
        const code = nibble(hi, i) * radix;
        target[i] = step * (lo ? code + nibble(lo, i) : code);
      }
    }
  }

  private async expectStoredShape(shape: readonly [number, number]): Promise<void> {
    const stored = new BigInt64Array((await readRegion(this.regions.shape)).buffer);
    if (Number(stored[0]) === shape[0] && Number(stored[1]) === shape[1]) return;
    throw new CheckpointError(
      `Expected \`${this.regions.shape.name}\` in \`${this.info.file}\` to hold [${shape.join(', ')}] but received [${stored.join(', ')}]. The artifact is damaged: quantise the model again.`,
      { tensor: this.info.name, path: this.info.file },
    );
  }
}

/** Element `index` of a packed plane, in [-8, 7]. */
function nibble(words: Int32Array, index: number): number {
  return ((words[index >> 3]! >>> ((index & 7) * 4)) & 15) - 8;
}

async function readPart(region: Region, begin: number, end: number, rowBytes: number): Promise<ArrayBuffer> {
  const bytes = new Uint8Array((end - begin) * rowBytes);
  await region.read(bytes, begin * rowBytes);
  return bytes.buffer;
}
