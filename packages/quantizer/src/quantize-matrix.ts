import { type DenseWeightSource, type Int4Format, type Nested8Format, RequestAbortedError } from '@qspec/core';
import { addErrorSums, type ErrorSums, emptyErrorSums } from './error-sums.js';
import type { RowExecutor } from './execution/row-executor.js';
import type { RowsResult, RowsTask } from './quantize-rows.js';
import type { ResolvedRecipe } from './recipe.js';

/**
 * Weights in one task: a millisecond of work, 20 with the exhaustive search. Sums are added up task by task in the order of rows, so this is part of the definition of the
 * report's last digits and must not depend on the number of workers.
 */
const TASK_WEIGHTS = 16_384;

export interface QuantizedMatrix {
  /** [N, K/8] words. */
  readonly hi: Int32Array;
  /** [N, K/8] words, for nested formats. */
  readonly lo?: Int32Array;
  /** [N, K/groupSize] bfloat16 bits. */
  readonly scales: Uint16Array;
  readonly sums: ErrorSums;
}

/**
 * Quantises a whole matrix in slices of rows, several at once.
 * @param onRows called with the number of rows finished so far.
 * @throws CheckpointError naming the tensor when a weight is not finite; RequestAbortedError.
 */
export async function quantizeMatrix(
  source: DenseWeightSource,
  format: Int4Format | Nested8Format,
  recipe: ResolvedRecipe,
  executor: RowExecutor,
  signal?: AbortSignal,
  onRows?: (numRows: number) => void,
): Promise<QuantizedMatrix> {
  const [numRows, numColumns] = source.shape;
  const matrix = allocateMatrix(numRows, numColumns, format);
  const partSums: ErrorSums[] = [];
  const rowsPerTask = Math.max(1, Math.floor(TASK_WEIGHTS / numColumns));
  let nextRow = 0;
  let numFinished = 0;

  const lane = async (): Promise<void> => {
    while (nextRow < numRows) {
      throwIfAborted(signal);
      const firstRow = nextRow;
      nextRow = Math.min(numRows, firstRow + rowsPerTask);
      const numTaskRows = nextRow - firstRow;
      const result = await executor.run(sliceRows(source, format, recipe, firstRow, numTaskRows));
      placeRows(matrix, result, firstRow, numColumns, format.groupSize);
      partSums[firstRow / rowsPerTask] = result.sums;
      numFinished += numTaskRows;
      onRows?.(numFinished);
    }
  };
  const lanes = Array.from({ length: executor.concurrency }, lane);
  try {
    await Promise.all(lanes);
  } catch (error) {
    nextRow = numRows; // no further tasks from the other lanes
    await Promise.allSettled(lanes);
    throw error;
  }
  throwIfAborted(signal);
  for (const part of partSums) addErrorSums(matrix.sums, part);
  return matrix;
}

/** @throws RequestAbortedError once the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new RequestAbortedError('Quantisation was aborted; nothing was written.', {}, signal.reason);
}

function allocateMatrix(numRows: number, numColumns: number, format: Int4Format | Nested8Format): QuantizedMatrix {
  const numWords = (numRows * numColumns) / 8;
  return {
    hi: new Int32Array(numWords),
    ...(format.kind === 'nested8' && { lo: new Int32Array(numWords) }),
    scales: new Uint16Array((numRows * numColumns) / format.groupSize),
    sums: emptyErrorSums(),
  };
}

function sliceRows(
  source: DenseWeightSource,
  format: Int4Format | Nested8Format,
  recipe: ResolvedRecipe,
  firstRow: number,
  numRows: number,
): RowsTask {
  const numColumns = source.shape[1];
  const rowBytes = source.data.byteLength / source.shape[0];
  return {
    name: source.name,
    dtype: source.format.dtype,
    data: new Uint8Array(source.data.subarray(firstRow * rowBytes, (firstRow + numRows) * rowBytes)),
    firstRow,
    numRows,
    numColumns,
    format,
    rounding: recipe.rounding,
    clipSearch: recipe.clipSearch,
  };
}

function placeRows(
  matrix: QuantizedMatrix,
  rows: RowsResult,
  firstRow: number,
  numColumns: number,
  groupSize: number,
): void {
  matrix.hi.set(rows.hi, (firstRow * numColumns) / 8);
  if (rows.lo) matrix.lo?.set(rows.lo, (firstRow * numColumns) / 8);
  matrix.scales.set(rows.scales, (firstRow * numColumns) / groupSize);
}
