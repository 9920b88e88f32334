import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { floatToBf16, floatToF16 } from '@qspec/core';
import { gaussianWeights } from './random-weights.js';

export interface TinyTensor {
  readonly dtype: 'BF16' | 'F16' | 'F32';
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export type TinyTensors = Record<string, TinyTensor>;

export const TINY_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 32,
  vocab_size: 96,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: 'bfloat16',
};

/** Every tensor of a two-layer Llama, bf16, random. */
export function tinyTensors(isTied = false): TinyTensors {
  const tensors: TinyTensors = {};
  const add = (name: string, ...shape: number[]) => {
    const length = shape.reduce((product, size) => product * size, 1);
    tensors[name] = { dtype: 'BF16', shape, values: gaussianWeights(length, Object.keys(tensors).length + 1) };
  };
  add('model.embed_tokens.weight', 96, 64);
  for (const layer of [0, 1]) {
    const prefix = `model.layers.${layer}`;
    add(`${prefix}.input_layernorm.weight`, 64);
    add(`${prefix}.self_attn.q_proj.weight`, 64, 64);
    add(`${prefix}.self_attn.k_proj.weight`, 32, 64);
    add(`${prefix}.self_attn.v_proj.weight`, 32, 64);
    add(`${prefix}.self_attn.o_proj.weight`, 64, 64);
    add(`${prefix}.post_attention_layernorm.weight`, 64);
    add(`${prefix}.mlp.gate_proj.weight`, 128, 64);
    add(`${prefix}.mlp.up_proj.weight`, 128, 64);
    add(`${prefix}.mlp.down_proj.weight`, 64, 128);
  }
  add('model.norm.weight', 64);
  if (!isTied) add('lm_head.weight', 96, 64);
  return tensors;
}

/** Writes a Hugging Face folder. */
export async function writeTinyCheckpoint(folder: string, tensors: TinyTensors, config: object = {}): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify({ ...TINY_CONFIG, ...config }));
  await writeFile(join(folder, 'tokenizer.json'), '{"not read":"by the quantizer"}');
  await writeFile(join(folder, 'tokenizer_config.json'), '{}');
  await writeFile(join(folder, 'model.safetensors'), safetensors(tensors));
}

function safetensors(tensors: TinyTensors): Uint8Array {
  const header: Record<string, unknown> = {};
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const [name, { dtype, shape, values }] of Object.entries(tensors)) {
    const bytes = encode(values, dtype);
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
    parts.push(bytes);
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...parts]);
}

function encode(values: Float32Array, dtype: TinyTensor['dtype']): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.slice().buffer);
  return new Uint8Array(Uint16Array.from(values, dtype === 'BF16' ? floatToBf16 : floatToF16).buffer);
}
