import { CheckpointError, UnsupportedFormatError } from '@qspec/core';
import type { UnknownFields } from '../../json.js';
import type { GgufMetadata, GgufValue } from './gguf-metadata.js';
import { ropeFromMetadata } from './gguf-rope.js';
import type { GgufTensorEntry } from './read-gguf.js';

const CLASSES: Readonly<Record<string, string>> = {
  llama: 'LlamaForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
};

/** `general.architecture`. @throws UnsupportedFormatError for one that is not supported. */
export function ggufArchitecture(path: string, metadata: GgufMetadata): string {
  const architecture = metadata.get('general.architecture');
  if (typeof architecture === 'string' && Object.hasOwn(CLASSES, architecture)) return architecture;
  throw new UnsupportedFormatError(
    `Expected \`general.architecture\` in \`${path}\` to be one of ${Object.keys(CLASSES).join(', ')} but received ${architecture === undefined ? 'nothing' : `\`${String(architecture)}\``}.`,
    { path, received: architecture },
  );
}

/** The metadata as the fields that a Hugging Face `config.json` would have. */
export function configFromMetadata(
  path: string,
  metadata: GgufMetadata,
  tensors: readonly GgufTensorEntry[],
  ropeFactors: Float32Array | undefined,
): UnknownFields {
  const architecture = ggufArchitecture(path, metadata);
  const get = (key: string): GgufValue | undefined => metadata.get(`${architecture}.${key}`);
  const has = (name: string): boolean => tensors.some((tensor) => tensor.name === name);
  const headDim = get('attention.key_length') ?? get('rope.dimension_count');
  expectOneHeadSize(path, get, headDim);
  return {
    architectures: [CLASSES[architecture]],
    model_type: architecture,
    hidden_size: get('embedding_length'),
    intermediate_size: get('feed_forward_length'),
    num_hidden_layers: get('block_count'),
    num_attention_heads: get('attention.head_count'),
    num_key_value_heads: get('attention.head_count_kv') ?? get('attention.head_count'),
    ...(headDim !== undefined && { head_dim: headDim }),
    vocab_size: vocabSize(path, get, metadata, tensors),
    max_position_embeddings: get('context_length'),
    rms_norm_eps: shortest(get('attention.layer_norm_rms_epsilon')),
    ...ropeFromMetadata(path, get, ropeFactors),
    tie_word_embeddings: !has('output.weight'),
    attention_bias: has('blk.0.attn_q.bias'),
    mlp_bias: has('blk.0.ffn_gate.bias'),
    hidden_act: 'silu',
    ...tokenIds(metadata),
  };
}

/** The shortest decimal that is the same float32: metadata holds singles, config.json prints doubles. */
export function shortest(value: GgufValue | undefined): GgufValue | undefined {
  if (typeof value !== 'number' || Number.isInteger(value)) return value;
  for (let digits = 1; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return value;
}

function vocabSize(
  path: string,
  get: (key: string) => GgufValue | undefined,
  metadata: GgufMetadata,
  tensors: readonly GgufTensorEntry[],
): GgufValue {
  const embedding = tensors.find((tensor) => tensor.name === 'token_embd.weight');
  const tokens = metadata.get('tokenizer.ggml.tokens');
  const listed = typeof tokens === 'object' ? tokens.length : undefined;
  const size = embedding?.shape[0] ?? get('vocab_size') ?? listed;
  if (size !== undefined) return size;
  throw new CheckpointError(`Expected \`${path}\` to hold \`token_embd.weight\` but it is missing.`, { path });
}

function expectOneHeadSize(
  path: string,
  get: (key: string) => GgufValue | undefined,
  headDim: GgufValue | undefined,
): void {
  for (const key of ['attention.value_length', 'rope.dimension_count']) {
    const value = get(key);
    if (value === undefined || value === headDim) continue;
    throw new UnsupportedFormatError(
      `Expected \`${key}\` in \`${path}\` to equal the head size ${String(headDim)} but received ${String(value)}.`,
      { path, field: key, received: value },
    );
  }
}

function tokenIds(metadata: GgufMetadata): UnknownFields {
  const id = (name: string): number[] => {
    const value = metadata.get(`tokenizer.ggml.${name}_token_id`);
    return typeof value === 'number' ? [value] : [];
  };
  const [bos] = id('bos');
  const [pad] = id('padding');
  const eos = [...new Set([...id('eos'), ...id('eot'), ...id('eom')])];
  return {
    ...(bos !== undefined && { bos_token_id: bos }),
    ...(eos.length > 0 && { eos_token_id: eos.length === 1 ? eos[0] : eos }),
    ...(pad !== undefined && { pad_token_id: pad }),
  };
}
