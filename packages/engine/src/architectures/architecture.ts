import type { ArchitectureName, ModelConfig } from '@qspec/core';

/** A linear layer by the names of its tensors in a Hugging Face checkpoint (GGUF names are mapped to these by `checkpoint`). */
export interface LinearTensors {
  readonly weight: string;
  readonly bias?: string;
  /** [N, K]: output features, input features. */
  readonly shape: readonly [number, number];
}

/** One decoder block: x += o(attention(qkv(norm(x)))); x += down(silu(gate(norm(x))) · up(norm(x))). */
export interface LayerTensors {
  readonly attentionNorm: string;
  readonly q: LinearTensors;
  readonly k: LinearTensors;
  readonly v: LinearTensors;
  /** RMSNorm over each head of q and k, [headDim]. */
  readonly qNorm?: string;
  readonly kNorm?: string;
  readonly o: LinearTensors;
  readonly mlpNorm: string;
  readonly gate: LinearTensors;
  readonly up: LinearTensors;
  readonly down: LinearTensors;
  /** Tokens that a position sees, its own included; 0 = all. */
  readonly slidingWindow: number;
}

export interface ModelTensors {
  /** [vocabSize, hiddenSize] */
  readonly embedding: string;
  readonly layers: readonly LayerTensors[];
  readonly finalNorm: string;
  /** Equals `embedding` when the matrix is shared. */
  readonly head: string;
}

/** What a model family is to the engine: which tensors make up its forward pass. */
export interface Architecture {
  readonly name: ArchitectureName;
  tensors(config: ModelConfig): ModelTensors;
}
