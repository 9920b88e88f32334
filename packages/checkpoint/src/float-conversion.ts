import { f16ToFloat } from '@qspec/core';

export type FloatDType = 'f32' | 'f16' | 'bf16';

/** Elements of `bytes` (which starts at a multiple of 4 of its buffer) to float32, exactly, into `target` from `at`. */
export function convertFloats(dtype: FloatDType, bytes: Uint8Array, target: Float32Array, at: number): void {
  if (dtype === 'f32') {
    target.set(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), at);
    return;
  }
  const source = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  if (dtype === 'bf16') {
    const bits = new Uint32Array(target.buffer, target.byteOffset + at * 4, source.length);
    for (let i = 0; i < source.length; i++) bits[i] = source[i]! << 16;
    return;
  }
  const table = halfTable();
  for (let i = 0; i < source.length; i++) target[at + i] = table[source[i]!]!;
}

let table: Float32Array | undefined;

/** Every IEEE half as float32, 256 KiB, made when first needed. */
export function halfTable(): Float32Array {
  table ??= Float32Array.from({ length: 0x10000 }, (_, bits) => f16ToFloat(bits));
  return table;
}

export function isFloatDType(dtype: string): dtype is FloatDType {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';
}
