import {
  ConfigError,
  type DenseWeightSource,
  type Int4Format,
  type Int4WeightSource,
  type Nested8Format,
  type Nested8WeightSource,
  ShapeMismatchError,
} from '@qspec/core';
import { quantizeRows } from './quantize-rows.js';
import { expectFormatFits, resolveRecipe } from './recipe.js';
import { type ErrorReport, errorReport } from './report.js';
import type { ClipSearch } from './rounding/clip-search.js';
import type { RoundingName } from './rounding/rounding.js';

export interface QuantizedWeight {
  readonly source: Int4WeightSource | Nested8WeightSource;
  readonly error: ErrorReport;
}

/**
 * Quantises one matrix in the calling thread, at about 10 million weights a second: for tests, experiments and small models.
 * {@link quantize} does whole checkpoints without blocking anyone, with the same result to the bit.
 *
 * @throws ConfigError when the format does not fit, ShapeMismatchError when the data does not fit its shape, CheckpointError when a weight is not finite.
 */
export function quantizeWeight(
  source: DenseWeightSource,
  format: Int4Format | Nested8Format,
  options: { readonly clipSearch?: ClipSearch; readonly rounding?: RoundingName } = {},
): QuantizedWeight {
  const { clipSearch, rounding } = resolveRecipe(options);
  const { name, shape } = source;
  const [numRows, numColumns] = shape;
  expectFormat(format);
  expectFormatFits(name, numColumns, format);
  const numBytes = numRows * numColumns * (source.format.dtype === 'f32' ? 4 : 2);
  if (source.data.byteLength !== numBytes) {
    throw new ShapeMismatchError(
      `Expected the data of \`${name}\` [${numRows}, ${numColumns}] to have ${numBytes} bytes but received ${source.data.byteLength}.`,
      { tensor: name, expected: numBytes, received: source.data.byteLength },
    );
  }
  const { dtype } = source.format;
  const data = new Uint8Array(source.data);
  const { hi, lo, scales, sums } = quantizeRows({
    name,
    dtype,
    data,
    firstRow: 0,
    numRows,
    numColumns,
    format,
    rounding,
    clipSearch,
  });
  const quantized =
    format.kind === 'int4' ? { name, shape, format, hi, scales } : { name, shape, format, hi, lo: lo!, scales };
  return { source: quantized, error: errorReport(sums) };
}

function expectFormat(format: Int4Format | Nested8Format): void {
  if (format.kind !== 'int4' && format.kind !== 'nested8') {
    throw new ConfigError(
      `Expected \`format.kind\` to be int4 or nested8 but received ${(format as { kind: unknown }).kind}.`,
      {
        option: 'format.kind',
      },
    );
  }
  const { groupSize, hadamardBlock } = format;
  resolveRecipe({ groupSize, hadamardBlock, ...(format.kind === 'nested8' && { radix: format.radix }) });
}
