/**
 * How keys and values are kept. Part of the *target* the user asked for.
 * `f32` is exact (CPU only); `bf16` is the default; `int8` has one float32 scale for each (slot, kv head) of K and of V;
 * `int8-nested` is int8 as two nibble planes, of which a draft may read the high one (CUDA).
 */
export type KvFormat = 'f32' | 'bf16' | 'int8' | 'int8-nested';

/** Shape of one KV cache: the pool that every layer has one of for K and one for V. */
export interface KvCacheShape {
  readonly format: KvFormat;
  readonly numLayers: number;
  readonly numPages: number;
  /** Slots a page; a power of two, 16 to 64. */
  readonly pageSize: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Bytes that one token occupies over all layers, K and V together. */
export function kvBytesPerToken(shape: Omit<KvCacheShape, 'numPages' | 'pageSize'>): number {
  const perHead =
    shape.format === 'f32' ? shape.headDim * 4 : shape.format === 'bf16' ? shape.headDim * 2 : shape.headDim + 4;
  return 2 * shape.numLayers * shape.numKvHeads * perHead;
}
