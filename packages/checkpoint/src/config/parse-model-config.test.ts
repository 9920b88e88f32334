import { CheckpointError, UnsupportedFormatError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import type { UnknownFields } from '../json.js';
import { parseModelConfig } from './parse-model-config.js';

const BASE = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 256,
  intermediate_size: 512,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 320,
  eos_token_id: 2,
};
const parse = (fields: UnknownFields, generation?: UnknownFields) =>
  parseModelConfig({ ...BASE, ...fields }, 'config.json', generation);
const mistral = { architectures: ['MistralForCausalLM'] };
const qwen2 = { architectures: ['Qwen2ForCausalLM'] };
const qwen3 = { architectures: ['Qwen3ForCausalLM'] };

describe('the configuration of a model', () => {
  it('has the defaults of transformers where config.json is silent', () => {
    expect(parse({ head_dim: null, rope_scaling: null })).toMatchObject({
      architecture: 'llama',
      headDim: 64,
      maxPositionEmbeddings: 2048,
      rmsNormEps: 1e-6,
      ropeTheta: 10000,
      tieWordEmbeddings: false,
      slidingWindows: [0, 0, 0, 0],
    });
    expect(parse({ ...qwen3 }).headDim).toBe(128);
    expect(parse({ num_key_value_heads: undefined }).numKvHeads).toBe(4);
  });

  it('has biases and head norms by architecture', () => {
    const biases = (fields: UnknownFields): boolean[] => {
      const { qkvBias, oBias, mlpBias, qkNorm } = parse(fields);
      return [qkvBias, oBias, mlpBias, qkNorm];
    };
    expect(biases({})).toEqual([false, false, false, false]);
    expect(biases({ attention_bias: true, mlp_bias: true })).toEqual([true, true, true, false]);
    expect(biases({ ...mistral, attention_bias: true })).toEqual([false, false, false, false]);
    expect(biases({ ...qwen2 })).toEqual([true, false, false, false]);
    expect(biases({ ...qwen3, attention_bias: true })).toEqual([true, true, false, true]);
  });

  it('takes the same RoPE scaling from the old and the new form', () => {
    const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
    const old = parse({ rope_theta: 5e5, rope_scaling: { rope_type: 'llama3', ...llama3 } });
    expect(old).toEqual(parse({ rope_parameters: { rope_type: 'llama3', rope_theta: 5e5, ...llama3 } }));
    expect(old.ropeTheta).toBe(5e5);
    expect(old.ropeScaling).toEqual({
      type: 'llama3',
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 8192,
    });
    expect(parse({ rope_scaling: { type: 'linear', factor: 2 } }).ropeScaling).toEqual({ type: 'linear', factor: 2 });
    expect(parse({ rope_parameters: { rope_type: 'default', rope_theta: 1e6 } })).not.toHaveProperty('ropeScaling');
    expect(
      parse({ rope_scaling: { rope_type: 'yarn', factor: 4 }, max_position_embeddings: 4096 }).ropeScaling,
    ).toEqual({
      type: 'yarn',
      factor: 4,
      betaFast: 32,
      betaSlow: 1,
      originalMaxPositionEmbeddings: 4096,
    });
  });

  it('has sliding windows by the rules of each architecture', () => {
    const windows = (fields: UnknownFields): readonly number[] => parse(fields).slidingWindows;
    expect(windows({ ...mistral, sliding_window: 64 })).toEqual([64, 64, 64, 64]);
    expect(windows({ ...mistral, sliding_window: null })).toEqual([0, 0, 0, 0]);
    expect(windows({ ...mistral })).toEqual([4096, 4096, 4096, 4096]);
    expect(windows({ ...qwen2, sliding_window: 64, max_window_layers: 1 })).toEqual([0, 0, 0, 0]);
    const used = { use_sliding_window: true, sliding_window: 64 };
    expect(windows({ ...qwen2, ...used, max_window_layers: 1 })).toEqual([0, 64, 64, 64]);
    const types = ['full_attention', 'sliding_attention', 'full_attention', 'sliding_attention'];
    expect(windows({ ...qwen3, ...used, layer_types: types })).toEqual([0, 64, 0, 64]);
    expect(() => windows({ ...qwen3, ...used, layer_types: ['full_attention'] })).toThrow(/layer_types/);
  });

  it('joins the end-of-sequence ids of both files', () => {
    expect(parse({ eos_token_id: [2, 7] }, { eos_token_id: [7, 9] }).eosTokenIds).toEqual([2, 7, 9]);
    expect(parse({ eos_token_id: undefined }).eosTokenIds).toEqual([]);
    expect(parse({ pad_token_id: -1 })).not.toHaveProperty('padTokenId');
    expect(() => parse({ eos_token_id: 320 })).toThrow(/eos_token_id/);
  });
});

describe('a configuration that cannot be', () => {
  const damaged: UnknownFields[] = [
    { hidden_size: undefined },
    { hidden_size: '256' },
    { num_hidden_layers: 0 },
    { num_attention_heads: 1.5 },
    { num_key_value_heads: 3 },
    { head_dim: 63 },
    { vocab_size: -1 },
    { rms_norm_eps: 0 },
    { rms_norm_eps: Number.NaN },
    { rope_theta: Number.POSITIVE_INFINITY },
    { rope_scaling: 'linear' },
    { rope_scaling: { type: 'linear' } },
    { tie_word_embeddings: 'yes' },
    { max_position_embeddings: 0 },
  ];
  it.each(damaged)('%j is a CheckpointError that names the field', (fields) => {
    const [field] = Object.keys(fields);
    expect(() => parse(fields)).toThrow(CheckpointError);
    expect(() => parse(fields)).toThrow(new RegExp(`\`${field}.*config\\.json`));
  });

  const unsupported: [UnknownFields, RegExp][] = [
    [{ architectures: ['GemmaForCausalLM'] }, /one of LlamaForCausalLM.*GemmaForCausalLM/],
    [{ architectures: undefined, model_type: 'gpt2' }, /gpt2/],
    [{ rope_scaling: { rope_type: 'longrope', factor: 2 } }, /linear, llama3, yarn.*longrope/],
    [{ hidden_act: 'gelu' }, /silu.*gelu/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor/],
  ];
  it.each(unsupported)('%j is unsupported, with what is', (fields, message) => {
    expect(() => parse(fields)).toThrow(UnsupportedFormatError);
    expect(() => parse(fields)).toThrow(message);
  });
});
