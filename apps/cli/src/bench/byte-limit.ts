import { type Checkpoint, openCheckpoint } from '@qspec/checkpoint';
import { type ExecutionMode, weightBytes } from '@qspec/core';
import type { NativeKernelBackend } from '@qspec/kernels';

/** What no decoder can beat: the bytes that a step must read over how fast this machine reads. */
export interface ByteLimit {
  /** Weights that one plain target step reads; the KV cache comes on top and is left out. */
  readonly bytesPerStep: number;
  /** Large sequential reads by all threads, measured now. */
  readonly bytesPerSecond: number;
  readonly stepsPerSecond: number;
}

export async function measureByteLimit(
  path: string,
  target: ExecutionMode,
  backend: NativeKernelBackend,
): Promise<ByteLimit> {
  await using checkpoint = await openCheckpoint(path);
  const bytesPerStep = bytesOfStep(checkpoint, target);
  const bytesPerSecond = await backend.measureReadBandwidth();
  return { bytesPerStep, bytesPerSecond, stepsPerSecond: bytesPerSecond / bytesPerStep };
}

/** Every matrix once, but of an untied embedding only a row. */
function bytesOfStep(checkpoint: Checkpoint, target: ExecutionMode): number {
  const plane = target === 'w8a16' ? 'full' : 'hi';
  let bytes = 0;
  for (const name of checkpoint.tensorNames) {
    const { shape, format } = checkpoint.tensorInfo(name);
    if (!format || shape.length !== 2) continue;
    const isEmbedding = name.endsWith('embed_tokens.weight');
    if (isEmbedding && !checkpoint.config.tieWordEmbeddings) continue;
    const isHead = isEmbedding || name === 'lm_head.weight';
    bytes += weightBytes(format, shape[0]!, shape[1]!, isHead ? 'full' : plane);
  }
  return bytes;
}
