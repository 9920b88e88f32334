import type { ModelConfig, VectorHandle, WeightFormat, WeightHandle } from '@qspec/core';

/** A linear layer on the device: one weight, which may hold several projections stacked along N. */
export interface ResidentLinear {
  readonly weight: WeightHandle;
  readonly format: WeightFormat;
  /** Column of the output buffer that the first row of the weight writes. */
  readonly outputColumn: number;
  readonly bias?: VectorHandle;
}

export interface ResidentLayer {
  readonly attentionNorm: VectorHandle;
  /** Together they fill [rows, (numHeads + 2·numKvHeads) · headDim]: one weight, or several where formats differ. */
  readonly qkv: readonly ResidentLinear[];
  readonly qNorm?: VectorHandle;
  readonly kNorm?: VectorHandle;
  readonly o: ResidentLinear;
  readonly mlpNorm: VectorHandle;
  /** Together they fill [rows, 2 · intermediateSize]: gate, then up. */
  readonly gateUp: readonly ResidentLinear[];
  readonly down: ResidentLinear;
  readonly slidingWindow: number;
}

/** The one copy of a model's weights on a device; every program refers to these handles. The backend owns the memory. */
export interface ResidentModel {
  readonly config: ModelConfig;
  readonly embedding: WeightHandle;
  readonly layers: readonly ResidentLayer[];
  readonly finalNorm: VectorHandle;
  /** The embedding's own handle when they are tied. */
  readonly head: ResidentLinear;
  /** [headDim / 2] */
  readonly inverseFrequencies: VectorHandle;
  readonly ropeAttentionFactor: number;
}

/** Formats of the layers' linears (not of head and embedding), in order, repeated. */
export function layerFormats(model: ResidentModel): WeightFormat[] {
  return model.layers.flatMap((layer) =>
    [...layer.qkv, layer.o, ...layer.gateUp, layer.down].map((linear) => linear.format),
  );
}
