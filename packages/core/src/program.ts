import type { ActivationGranularity } from './execution-mode.js';
import type { WeightPlane } from './weight-format.js';

/**
 * A program is one forward pass written down once: a list of ops over numbered buffers, with the row count left open.
 * `engine` records it at load; a session replays it natively for whatever rows a batch has.
 *
 * Rows. Ops before `gatherRows` work on all rows of a batch (one row = one token at one position of one sequence);
 * ops after it on the rows whose logits are wanted.
 */
export interface Program {
  /** For messages and profiles, e.g. `target w4a16`. */
  readonly name: string;
  readonly buffers: readonly BufferSpec[];
  readonly ops: readonly Op[];
  /** Float buffer of `vocabSize` columns that holds the logits after the last op. */
  readonly logits: BufferIndex;
}

/** Index into {@link Program.buffers}. */
export type BufferIndex = number;
/** Opaque handle of a resident weight matrix, as {@link KernelBackend.createWeight} gave it. */
export type WeightHandle = { readonly __weight: unique symbol };
/** Opaque handle of a resident float32 vector (norm weights, biases, inverse frequencies). */
export type VectorHandle = { readonly __vector: unique symbol };

/** A scratch array of the session. Contents don't survive from one replay to the next. */
export type BufferSpec = FloatBufferSpec | QuantizedBufferSpec;

/** [rows, width] floating point: float32 on the CPU, bfloat16 or float32 as the backend chooses on CUDA. */
export interface FloatBufferSpec {
  readonly kind: 'float';
  readonly width: number;
  /** Residual stream and other sums that must keep float32 on every backend. */
  readonly wide?: boolean;
}

/**
 * Integer activations: codes int8 [rows, width] in [-2^(bits-1)+1, 2^(bits-1)-1], float32 scales [rows, width / groupSize]
 * (all equal within a row when granularity is `token`). x ≈ scale · code, scale = max|x| / (2^(bits-1)-1).
 */
export interface QuantizedBufferSpec {
  readonly kind: 'quantized';
  readonly width: number;
  readonly bits: 4 | 8;
  readonly granularity: ActivationGranularity;
  readonly groupSize: number;
}

/**
 * Where an op's row goes after it is computed: multiplied by the orthonormal block-Hadamard matrix (when `hadamardBlock` > 0,
 * a power of two dividing the width), then stored into `output`, quantised if that is a quantised buffer.
 */
export interface RowOutput {
  readonly output: BufferIndex;
  readonly hadamardBlock: number;
}

export type Op =
  | EmbeddingOp
  | GatherRowsOp
  | RmsNormOp
  | TransformOp
  | LinearOp
  | RopeKvWriteOp
  | AttentionOp
  | SiluMulOp;

/** output[r] = table row of token[r]; a rotated table is rotated back. */
export interface EmbeddingOp {
  readonly op: 'embedding';
  readonly table: WeightHandle;
  readonly output: BufferIndex;
}

/** output[i] = input[logitRows[i]]. From here on a "row" is a logit row. */
export interface GatherRowsOp {
  readonly op: 'gatherRows';
  readonly input: BufferIndex;
  readonly output: BufferIndex;
}

/** If `delta`: input += delta, in place. Then output = input / sqrt(mean(input²) + eps) · weight. */
export interface RmsNormOp extends RowOutput {
  readonly op: 'rmsNorm';
  readonly input: BufferIndex;
  readonly delta?: BufferIndex;
  readonly weight: VectorHandle;
  readonly eps: number;
}

/** Copy with block-Hadamard and/or quantisation, where neither could be fused with what came before. */
export interface TransformOp extends RowOutput {
  readonly op: 'transform';
  readonly input: BufferIndex;
}

/**
 * output[:, outputColumn : outputColumn + N] = input · Wᵀ (+ bias). Float input: target arithmetic (row-invariant). Quantised input:
 * integer dot products per group. `plane` picks what is read of a nested weight; others have only `full`.
 */
export interface LinearOp {
  readonly op: 'linear';
  readonly weight: WeightHandle;
  readonly plane: WeightPlane;
  readonly input: BufferIndex;
  readonly output: BufferIndex;
  readonly outputColumn: number;
  readonly bias?: VectorHandle;
}

/**
 * On `qkv` [rows, (numHeads + 2·numKvHeads) · headDim] in place: RMSNorm of each q and k head (when qNorm/kNorm are given), RoPE of q and k
 * (first-half/second-half pairing over headDim, angle = position · inverseFrequencies[i], cos and sin times `attentionFactor`),
 * then k and v into the row's slot of `layer`'s cache.
 */
export interface RopeKvWriteOp {
  readonly op: 'ropeKvWrite';
  readonly qkv: BufferIndex;
  readonly layer: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** [headDim / 2] */
  readonly inverseFrequencies: VectorHandle;
  readonly attentionFactor: number;
  /** [headDim] */
  readonly qNorm?: VectorHandle;
  readonly kNorm?: VectorHandle;
  readonly eps: number;
}

/** Causal grouped-query attention over the row's own sequence, its own position included. output: [rows, numHeads · headDim]. */
export interface AttentionOp extends RowOutput {
  readonly op: 'attention';
  readonly qkv: BufferIndex;
  readonly layer: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly scale: number;
  /** Attend to the last `slidingWindow` positions (own included); 0 = all. */
  readonly slidingWindow: number;
}

/** output = silu(input[:, :width]) · input[:, width:]. */
export interface SiluMulOp extends RowOutput {
  readonly op: 'siluMul';
  readonly input: BufferIndex;
  readonly width: number;
}
