/** Architectures that `engine` knows; the checkpoint's `architectures[0]` is mapped to one of them. */
export type ArchitectureName = 'llama' | 'mistral' | 'qwen2' | 'qwen3';

/** Rotary position scaling, as Hugging Face's `rope_scaling` / `rope_parameters` describes it. */
export type RopeScaling =
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly originalMaxPositionEmbeddings: number;
      readonly attentionFactor?: number;
      readonly mscale?: number;
      readonly mscaleAllDim?: number;
      readonly truncate?: boolean;
    };

/** A decoder-only transformer, dimensions in elements. */
export interface ModelConfig {
  readonly architecture: ArchitectureName;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** May differ from hiddenSize / numHeads. */
  readonly headDim: number;
  readonly vocabSize: number;
  /** Longest context the model was made for. */
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
  /** `lm_head` shares the embedding's matrix. */
  readonly tieWordEmbeddings: boolean;
  readonly qkvBias: boolean;
  readonly oBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k before RoPE (Qwen3). */
  readonly qkNorm: boolean;
  /** Window of each layer in tokens, 0 = full attention; `numLayers` entries. */
  readonly slidingWindows: readonly number[];
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId?: number;
}
