import { setImmediate } from 'node:timers/promises';
import type { ArtifactWriter, Checkpoint } from '@qspec/checkpoint';
import { type DenseFormat, floatToBf16, floatToF16 } from '@qspec/core';
import type { PlannedTensor } from './plan.js';

/** Elements converted between two turns of the event loop. */
const SLICE = 1 << 18;

/**
 * Writes a tensor that is not quantised, every value exactly as it is: f16 and bf16 stay what they are; f32 (and what was dequantised from GGUF blocks)
 * becomes bf16 if *all* its values are bf16 values, and stays f32 otherwise.
 */
export async function keepDense(checkpoint: Checkpoint, writer: ArtifactWriter, tensor: PlannedTensor): Promise<void> {
  const { dtype, format } = checkpoint.tensorInfo(tensor.name);
  if (format?.kind === 'dense') {
    const source = await checkpoint.weightSource(tensor.name);
    if ('data' in source) return addDense(writer, tensor, source.format.dtype, source.data);
  }
  const values = await checkpoint.readFloat32(tensor.name);
  if (dtype === 'f16')
    return writer.addDense(tensor.name, 'f16', tensor.shape, bytesOf(Uint16Array.from(values, floatToF16)));
  if (dtype === 'bf16')
    return writer.addDense(tensor.name, 'bf16', tensor.shape, bytesOf(Uint16Array.from(values, floatToBf16)));
  return addDense(writer, tensor, 'f32', bytesOf(values));
}

async function addDense(
  writer: ArtifactWriter,
  tensor: PlannedTensor,
  dtype: DenseFormat['dtype'],
  data: Uint8Array,
): Promise<void> {
  const halves = dtype === 'f32' ? await tryBf16(data) : undefined;
  await (halves
    ? writer.addDense(tensor.name, 'bf16', tensor.shape, bytesOf(halves))
    : writer.addDense(tensor.name, dtype, tensor.shape, data));
}

/** @returns the upper halves of little-endian float32 `data`, or undefined when some lower half is not zero. */
async function tryBf16(data: Uint8Array): Promise<Uint16Array | undefined> {
  const aligned = data.byteOffset % 4 === 0 ? data : data.slice();
  const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4);
  const halves = new Uint16Array(words.length);
  for (let start = 0; start < words.length; start += SLICE) {
    const end = Math.min(words.length, start + SLICE);
    for (let i = start; i < end; i++) {
      const word = words[i]!;
      if ((word & 0xffff) !== 0) return undefined;
      halves[i] = word >>> 16;
    }
    await setImmediate();
  }
  return halves;
}

function bytesOf(array: Uint16Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
