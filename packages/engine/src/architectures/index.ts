import { type ArchitectureName, UnsupportedFormatError } from '@qspec/core';
import type { Architecture } from './architecture.js';
import { llama } from './llama.js';
import { mistral } from './mistral.js';
import { qwen2 } from './qwen2.js';
import { qwen3 } from './qwen3.js';

export type { Architecture, LayerTensors, LinearTensors, ModelTensors } from './architecture.js';
export { type DecoderTraits, decoderTensors } from './decoder.js';

const architectures: Readonly<Record<ArchitectureName, Architecture>> = { llama, mistral, qwen2, qwen3 };

/** @throws UnsupportedFormatError when the engine has no such architecture. */
export function findArchitecture(name: ArchitectureName): Architecture {
  const architecture = architectures[name];
  if (!architecture) {
    throw new UnsupportedFormatError(
      `Expected the architecture to be one of ${Object.keys(architectures).join(', ')} but received ${String(name)}.`,
      { architecture: name },
    );
  }
  return architecture;
}
