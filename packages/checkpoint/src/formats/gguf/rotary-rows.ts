import type { Region } from '../../region.js';

/**
 * Undoes the row order that llama.cpp's converter gives the q and k matrices (and biases) of the `llama` family. Within each head of
 * `headDim` rows it interleaves the two halves that RoPE pairs: file row 2·i + half holds row half · headDim/2 + i.
 * This region hands the bytes out in Hugging Face's order again, reading a head at a time.
 */
export class RotaryRowsRegion implements Region {
  readonly name: string;
  readonly path: string;
  readonly byteLength: number;

  constructor(
    private readonly inner: Region,
    private readonly rowBytes: number,
    private readonly headDim: number,
  ) {
    this.name = inner.name;
    this.path = inner.path;
    this.byteLength = inner.byteLength;
  }

  async read(target: Uint8Array, begin: number): Promise<void> {
    const { headDim, rowBytes } = this;
    const headBytes = headDim * rowBytes;
    const end = begin + target.byteLength;
    const head = new Uint8Array(headBytes);
    for (let headStart = Math.floor(begin / headBytes) * headBytes; headStart < end; headStart += headBytes) {
      await this.inner.read(head, headStart);
      for (let row = 0; row < headDim; row++) {
        const rowStart = headStart + row * rowBytes;
        const from = Math.max(rowStart, begin);
        const to = Math.min(rowStart + rowBytes, end);
        if (from >= to) continue;
        const source = fileRow(row, headDim) * rowBytes - rowStart;
        target.set(head.subarray(source + from, source + to), from - begin);
      }
    }
  }
}

function fileRow(row: number, headDim: number): number {
  const half = headDim / 2;
  return row < half ? 2 * row : 2 * (row - half) + 1;
}
