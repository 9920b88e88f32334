export { dequantize, dequantizeUnrotated } from './dequantize.js';
export type { QuantizeEvent } from './events.js';
export { MAX_RADIX, MIN_RADIX, residualCodes } from './nested.js';
export { packNibbles, unpackNibbles } from './pack.js';
export { type QuantizeOptions, type QuantizeResult, quantize } from './quantize.js';
export { type QuantizedWeight, quantizeWeight } from './quantize-weight.js';
export {
  expectFormatFits,
  formatFor,
  HEAD_SCHEMES,
  type HeadScheme,
  type Recipe,
  type ResolvedRecipe,
  resolveRecipe,
  SCHEMES,
  type Scheme,
  type TensorRole,
} from './recipe.js';
export type { ErrorReport, LayerReport, PlaneErrors, QuantizationReport } from './report.js';
export { CLIP_SEARCHES, type ClipSearch } from './rounding/clip-search.js';
export { ROUNDINGS } from './rounding/index.js';
export type {
  CalibrationStatistics,
  RoundedRows,
  Rounding,
  RoundingInput,
  RoundingName,
} from './rounding/rounding.js';
export { hadamardRows, isHadamardBlock } from './transforms/hadamard.js';
