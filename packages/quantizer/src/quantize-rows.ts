import { CheckpointError, type DenseFormat, type Int4Format, type Nested8Format } from '@qspec/core';
import { decodeDense } from './decode-dense.js';
import { type ErrorSums, measureError } from './error-sums.js';
import { maxClipOf, residualCodes } from './nested.js';
import { packNibbles } from './pack.js';
import type { ClipSearch } from './rounding/clip-search.js';
import { ROUNDINGS } from './rounding/index.js';
import type { RoundingName } from './rounding/rounding.js';
import { hadamardRows } from './transforms/hadamard.js';

/** Some rows of a matrix and what to make of them: all that a worker needs to know, as plain data. */
export interface RowsTask {
  readonly name: string;
  readonly dtype: DenseFormat['dtype'];
  /** Little-endian [numRows, numColumns], starting at byte 0 of its buffer. */
  readonly data: Uint8Array<ArrayBuffer>;
  /** Where these rows begin in the matrix, for error messages. */
  readonly firstRow: number;
  readonly numRows: number;
  readonly numColumns: number;
  readonly format: Int4Format | Nested8Format;
  readonly rounding: RoundingName;
  readonly clipSearch: ClipSearch;
}

export interface RowsResult {
  /** [numRows, numColumns / 8] words. */
  readonly hi: Int32Array;
  /** The same, for nested formats. */
  readonly lo?: Int32Array;
  /** [numRows, numColumns / groupSize] bfloat16 bits. */
  readonly scales: Uint16Array;
  readonly sums: ErrorSums;
}

/**
 * A weight's way through the quantizer: decoded, rotated, rounded, nested, measured, packed.
 * @throws CheckpointError naming the tensor when a weight is not finite.
 */
export function quantizeRows(task: RowsTask): RowsResult {
  const { format } = task;
  const weights = decodeDense(task.data, task.dtype);
  expectFinite(task, weights);
  if (format.hadamardBlock > 0) hadamardRows(weights, format.hadamardBlock);
  const rounded = ROUNDINGS[task.rounding].round({
    ...task,
    weights,
    groupSize: format.groupSize,
    maxClip: maxClipOf(format),
  });
  const lo = format.kind === 'nested8' ? residualCodes(weights, rounded, format.groupSize, format.radix) : undefined;
  return {
    hi: packNibbles(rounded.hi),
    ...(lo && { lo: packNibbles(lo) }),
    scales: rounded.scales,
    sums: measureError(weights, rounded, lo, format),
  };
}

function expectFinite(task: RowsTask, weights: Float32Array): void {
  let rest = 0;
  for (let i = 0; i < weights.length; i++) rest += weights[i]! - weights[i]!;
  if (rest === 0) return;
  const index = weights.findIndex((weight) => !Number.isFinite(weight));
  const row = task.firstRow + Math.floor(index / task.numColumns);
  const column = index % task.numColumns;
  throw new CheckpointError(
    `Expected the weights of \`${task.name}\` to be finite but received ${weights[index]} in row ${row}, column ${column}. ` +
      'The checkpoint is damaged or its training diverged; download it again or use another one.',
    { tensor: task.name, row, column, received: weights[index] },
  );
}
