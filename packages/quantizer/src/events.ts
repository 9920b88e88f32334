import type { Int4Format, Nested8Format } from '@qspec/core';
import type { LayerReport } from './report.js';

/** What `quantize` tells while it works, in this order: `start`, for each tensor (`tensor-start`, `progress`…, `tensor-end`), `commit`. */
export type QuantizeEvent =
  | { readonly type: 'start'; readonly numTensors: number; readonly numWeights: number }
  | {
      readonly type: 'tensor-start';
      readonly name: string;
      readonly tensorIndex: number;
      readonly shape: readonly number[];
      /** Absent: the tensor is kept as it is. */
      readonly format?: Int4Format | Nested8Format;
    }
  /** `numWeightsDone` counts over all tensors and only grows; it reaches `numWeights` with the last tensor. */
  | { readonly type: 'progress'; readonly name: string; readonly numWeightsDone: number; readonly numWeights: number }
  /** `report` is absent for a tensor that was kept. */
  | { readonly type: 'tensor-end'; readonly name: string; readonly tensorIndex: number; readonly report?: LayerReport }
  /** Everything is computed; the artifact is about to appear. */
  | { readonly type: 'commit' };
