import { type ArchitectureName, type ModelConfig, UnsupportedFormatError } from '@qspec/core';
import { describe, type UnknownFields } from '../json.js';
import { ARCHITECTURE_DEFAULTS, findArchitectureName } from './architecture-defaults.js';
import { ConfigFields } from './config-fields.js';
import { parseRope } from './rope-scaling.js';
import { parseSlidingWindows } from './sliding-windows.js';
import { parseTokenIds } from './token-ids.js';

/**
 * The fields of a Hugging Face `config.json` as a checked ModelConfig, with the defaults of `transformers`.
 * @param source the file's name, for messages
 * @param generation the fields of `generation_config.json`, whose end-of-sequence ids are added
 * @throws UnsupportedFormatError for an unknown architecture, RoPE type or activation; CheckpointError for a value out of range.
 */
export function parseModelConfig(json: UnknownFields, source: string, generation?: UnknownFields): ModelConfig {
  const config = new ConfigFields(json, source);
  const architecture = findArchitectureName(config);
  expectSilu(config);
  const sizes = parseSizes(architecture, config);
  const tieWordEmbeddings = config.boolean('tie_word_embeddings', false);
  const generationFields = generation && new ConfigFields(generation, 'generation_config.json');
  return {
    architecture,
    ...sizes,
    rmsNormEps: config.number('rms_norm_eps', Number.MIN_VALUE, 1, 1e-6),
    ...parseRope(config, sizes.maxPositionEmbeddings),
    tieWordEmbeddings,
    ...parseBiases(architecture, config),
    qkNorm: architecture === 'qwen3',
    slidingWindows: parseSlidingWindows(architecture, config, sizes.numLayers),
    ...parseTokenIds(config, sizes.vocabSize, generationFields),
  };
}

type Sizes = Pick<
  ModelConfig,
  | 'hiddenSize'
  | 'intermediateSize'
  | 'numLayers'
  | 'numHeads'
  | 'numKvHeads'
  | 'headDim'
  | 'vocabSize'
  | 'maxPositionEmbeddings'
>;

function parseSizes(architecture: ArchitectureName, config: ConfigFields): Sizes {
  const defaults = ARCHITECTURE_DEFAULTS[architecture];
  const hiddenSize = config.integer('hidden_size', 1, 2 ** 20);
  const numHeads = config.integer('num_attention_heads', 1, 4096);
  const numKvHeads = config.integer('num_key_value_heads', 1, numHeads, defaults.numKvHeads ?? numHeads);
  if (numHeads % numKvHeads !== 0) {
    throw config.invalid('num_key_value_heads', `a divisor of num_attention_heads = ${numHeads}`, numKvHeads);
  }
  const headDim = config.integer('head_dim', 2, 4096, defaults.headDim ?? hiddenSize / numHeads);
  if (headDim % 2 !== 0) throw config.invalid('head_dim', 'even', headDim);
  return {
    hiddenSize,
    intermediateSize: config.integer('intermediate_size', 1, 2 ** 22),
    numLayers: config.integer('num_hidden_layers', 1, 4096),
    numHeads,
    numKvHeads,
    headDim,
    vocabSize: config.integer('vocab_size', 1, 2 ** 24),
    maxPositionEmbeddings: config.integer('max_position_embeddings', 1, 2 ** 30, defaults.maxPositionEmbeddings),
  };
}

function parseBiases(
  architecture: ArchitectureName,
  config: ConfigFields,
): Pick<ModelConfig, 'qkvBias' | 'oBias' | 'mlpBias'> {
  if (architecture === 'mistral') return { qkvBias: false, oBias: false, mlpBias: false };
  if (architecture === 'qwen2') return { qkvBias: true, oBias: false, mlpBias: false };
  const attentionBias = config.boolean('attention_bias', false);
  const mlpBias = architecture === 'llama' && config.boolean('mlp_bias', false);
  return { qkvBias: attentionBias, oBias: attentionBias, mlpBias };
}

function expectSilu(config: ConfigFields): void {
  const activation = config.raw('hidden_act') ?? 'silu';
  if (activation === 'silu' || activation === 'swish') return;
  throw new UnsupportedFormatError(
    `Expected \`hidden_act\` in \`${config.source}\` to be silu but received ${describe(activation)}.`,
    { path: config.source, received: activation },
  );
}
