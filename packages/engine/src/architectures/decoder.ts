import type { ModelConfig } from '@qspec/core';
import type { LayerTensors, LinearTensors, ModelTensors } from './architecture.js';

/** What may differ between families that share Llama's block. */
export interface DecoderTraits {
  readonly qkvBias: boolean;
  readonly oBias: boolean;
  readonly mlpBias: boolean;
  readonly qkNorm: boolean;
  /** Tokens seen by `layer`; 0 = all. */
  slidingWindow(layer: number): number;
}

/** Tensor names and shapes of a pre-norm decoder with grouped-query attention and a gated MLP. */
export function decoderTensors(config: ModelConfig, traits: DecoderTraits): ModelTensors {
  const embedding = 'model.embed_tokens.weight';
  return {
    embedding,
    layers: Array.from({ length: config.numLayers }, (_, layer) => layerTensors(config, traits, layer)),
    finalNorm: 'model.norm.weight',
    head: config.tieWordEmbeddings ? embedding : 'lm_head.weight',
  };
}

function layerTensors(config: ModelConfig, traits: DecoderTraits, layer: number): LayerTensors {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim } = config;
  const prefix = `model.layers.${layer}`;
  const linear = (name: string, numRows: number, numColumns: number, hasBias: boolean): LinearTensors => ({
    weight: `${prefix}.${name}.weight`,
    ...(hasBias ? { bias: `${prefix}.${name}.bias` } : {}),
    shape: [numRows, numColumns],
  });
  return {
    attentionNorm: `${prefix}.input_layernorm.weight`,
    q: linear('self_attn.q_proj', numHeads * headDim, hiddenSize, traits.qkvBias),
    k: linear('self_attn.k_proj', numKvHeads * headDim, hiddenSize, traits.qkvBias),
    v: linear('self_attn.v_proj', numKvHeads * headDim, hiddenSize, traits.qkvBias),
    ...(traits.qkNorm
      ? { qNorm: `${prefix}.self_attn.q_norm.weight`, kNorm: `${prefix}.self_attn.k_norm.weight` }
      : {}),
    o: linear('self_attn.o_proj', hiddenSize, numHeads * headDim, traits.oBias),
    mlpNorm: `${prefix}.post_attention_layernorm.weight`,
    gate: linear('mlp.gate_proj', intermediateSize, hiddenSize, traits.mlpBias),
    up: linear('mlp.up_proj', intermediateSize, hiddenSize, traits.mlpBias),
    down: linear('mlp.down_proj', hiddenSize, intermediateSize, traits.mlpBias),
    slidingWindow: traits.slidingWindow(layer),
  };
}
