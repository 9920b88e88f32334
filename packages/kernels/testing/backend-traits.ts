import type { KvFormat } from '@qspec/core';

/** How close a backend comes to the reference, and what it can do. What isn't here is the same everywhere, bit for bit. */
export interface BackendTraits {
  /** Cache formats, the most precise first: most tests run with that one. */
  readonly kvFormats: readonly [KvFormat, ...KvFormat[]];
  readonly refusedKvFormats: readonly KvFormat[];
  /** Largest difference of a target logit, as a share of the largest logit. */
  readonly logitTolerance: number;
  /** Largest 1 - cosine of all logits. */
  readonly cosineGap: { readonly target: number; readonly draft: number };
  /** Dense float32 weights stay what they are; otherwise they are rounded to bfloat16, to nearest even. */
  readonly keepsDenseF32: boolean;
}

/** float32 activations and sums. */
export const CPU_TRAITS: BackendTraits = {
  kvFormats: ['f32', 'bf16', 'int8'],
  refusedKvFormats: ['int8-nested'],
  logitTolerance: 2e-5,
  cosineGap: { target: 1e-9, draft: 1e-4 },
  keepsDenseF32: true,
};

/** bfloat16 activations: 8 significant bits an op, so a few in a hundred after two layers. */
export const CUDA_TRAITS: BackendTraits = {
  kvFormats: ['bf16', 'int8'],
  refusedKvFormats: ['f32'],
  logitTolerance: 2e-2,
  cosineGap: { target: 5e-4, draft: 2e-3 },
  keepsDenseF32: false,
};
