import { type DenseFormat, f16ToFloat } from '@qspec/core';

/** @returns `data` (little-endian, starting at byte 0 of its buffer) as float32, exact. May share its memory. */
export function decodeDense(data: Uint8Array<ArrayBuffer>, dtype: DenseFormat['dtype']): Float32Array {
  if (dtype === 'f32') return new Float32Array(data.buffer, data.byteOffset, data.length / 4);
  const halves = new Uint16Array(data.buffer, data.byteOffset, data.length / 2);
  if (dtype === 'bf16') return decodeBf16(halves);
  const table = (f16Table ??= Float32Array.from({ length: 65536 }, (_, bits) => f16ToFloat(bits)));
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) values[i] = table[halves[i]!]!;
  return values;
}

let f16Table: Float32Array | undefined;

function decodeBf16(halves: Uint16Array): Float32Array {
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16;
  return new Float32Array(bits.buffer);
}
