import { type ArchitectureName, UnsupportedFormatError } from '@qspec/core';
import { describe } from '../json.js';
import type { ConfigFields } from './config-fields.js';

/** What `transformers` assumes where config.json is silent. */
export interface ArchitectureDefaults {
  readonly maxPositionEmbeddings: number;
  /** undefined: as many as heads. */
  readonly numKvHeads?: number;
  /** undefined: hiddenSize / numHeads. */
  readonly headDim?: number;
}

export const ARCHITECTURE_DEFAULTS: Readonly<Record<ArchitectureName, ArchitectureDefaults>> = {
  llama: { maxPositionEmbeddings: 2048 },
  mistral: { maxPositionEmbeddings: 131_072, numKvHeads: 8 },
  qwen2: { maxPositionEmbeddings: 32_768, numKvHeads: 32 },
  qwen3: { maxPositionEmbeddings: 32_768, numKvHeads: 32, headDim: 128 },
};

const BY_CLASS: Readonly<Record<string, ArchitectureName>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};

/** From `architectures[0]`, or `model_type` where that is missing. @throws UnsupportedFormatError naming it and what is supported. */
export function findArchitectureName(config: ConfigFields): ArchitectureName {
  const classes = config.raw('architectures');
  const received: unknown = (Array.isArray(classes) ? classes[0] : classes) ?? config.raw('model_type');
  const name = typeof received === 'string' ? received : '';
  if (Object.hasOwn(BY_CLASS, name)) return BY_CLASS[name]!;
  if (Object.hasOwn(ARCHITECTURE_DEFAULTS, name)) return name as ArchitectureName;
  throw new UnsupportedFormatError(
    `Expected the architecture in \`${config.source}\` to be one of ${Object.keys(BY_CLASS).join(', ')} but received ${received === undefined ? 'nothing' : describe(received)}.`,
    { path: config.source, received },
  );
}
