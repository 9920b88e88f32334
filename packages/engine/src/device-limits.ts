import { type BackendName, type KvFormat, UnsupportedFormatError } from '@qspec/core';
import { KV_DEFAULT_BYTES } from './memory-plan.js';

/** Where kinds of device differ in what they take and how their memory is shared out. */
interface DeviceLimits {
  readonly kvFormats: readonly KvFormat[];
  /** As in `MemoryRequest`. */
  readonly defaultKvBytes: number;
  /** Rows of a round: a GPU takes a prompt fastest in long chunks, on a CPU long ones only keep others waiting. */
  readonly defaultBatchedTokens: number;
  readonly instead: string;
}

// The system's memory belongs to others too; a GPU's is there for the model.
const SYSTEM: DeviceLimits = {
  kvFormats: ['f32', 'bf16', 'int8'],
  defaultKvBytes: KV_DEFAULT_BYTES,
  defaultBatchedTokens: 256,
  instead: 'choose int8, or `device`: "cuda"',
};
const CUDA: DeviceLimits = {
  kvFormats: ['bf16', 'int8', 'int8-nested'],
  defaultKvBytes: Number.POSITIVE_INFINITY,
  defaultBatchedTokens: 1024,
  instead: 'choose bf16, or `device`: "cpu"',
};

function limitsOf(backend: BackendName): DeviceLimits {
  return backend === 'cuda' ? CUDA : SYSTEM;
}

export function defaultKvBytes(backend: BackendName): number {
  return limitsOf(backend).defaultKvBytes;
}

export function defaultBatchedTokens(backend: BackendName): number {
  return limitsOf(backend).defaultBatchedTokens;
}

/** @throws UnsupportedFormatError when the device has no kernels for this cache. */
export function expectKvFormat(backend: BackendName, kvFormat: KvFormat): void {
  const { kvFormats, instead } = limitsOf(backend);
  if (kvFormats.includes(kvFormat)) return;
  throw new UnsupportedFormatError(
    `Expected \`kvFormat\` to be one of ${kvFormats.join(', ')} on ${backend} but received ${kvFormat}: ${instead}.`,
    { option: 'kvFormat', received: kvFormat, backend },
  );
}
