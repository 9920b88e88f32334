import {
  ConfigError,
  isQuantized,
  type Program,
  ShapeMismatchError,
  UnsupportedFormatError,
  type VectorHandle,
  type WeightHandle,
  type WeightSource,
} from '@qspec/core';
import type { NativeOp, NativeProgram, NativeWeightPart } from './native-types.js';

/** Handles of one backend: opaque outside, numbers inside. A handle of another backend is unknown here. */
export class HandleTable<Handle extends object> {
  readonly #ids = new WeakMap<object, number>();
  readonly #kind: string;

  constructor(kind: string) {
    this.#kind = kind;
  }

  create(id: number): Handle {
    const handle = Object.freeze(Object.create(null)) as Handle;
    this.#ids.set(handle, id);
    return handle;
  }

  idOf(handle: unknown, place: string): number {
    const id = typeof handle === 'object' && handle !== null ? this.#ids.get(handle) : undefined;
    if (id === undefined) {
      throw new ConfigError(`Expected \`${place}\` to be a ${this.#kind} handle of this backend but it is not.`, {
        option: place,
      });
    }
    return id;
  }
}

const WEIGHT_FIELDS = ['weight', 'table'];
const VECTOR_FIELDS = ['weight', 'bias', 'inverseFrequencies', 'qNorm', 'kNorm'];

/** The program with handles replaced by ids. */
export function lowerProgram(
  program: Program,
  weights: HandleTable<WeightHandle>,
  vectors: HandleTable<VectorHandle>,
): NativeProgram {
  const ops = program.ops.map((op, index): NativeOp => {
    const lowered: Record<string, string | number | undefined> = {};
    for (const [field, value] of Object.entries(op)) {
      const place = `${program.name} op ${index} (${op.op}).${field}`;
      const isWeight = WEIGHT_FIELDS.includes(field) && op.op !== 'rmsNorm';
      if (value === undefined) continue;
      else if (isWeight) lowered[field] = weights.idOf(value, place);
      else if (VECTOR_FIELDS.includes(field)) lowered[field] = vectors.idOf(value, place);
      else lowered[field] = value as string | number;
    }
    return lowered;
  });
  return { name: program.name, buffers: program.buffers, ops, logits: program.logits };
}

/** @throws ShapeMismatchError, UnsupportedFormatError naming the tensor. */
export function lowerWeightSource(source: WeightSource): NativeWeightPart {
  const { name, format, shape } = source;
  const [numRows, numColumns] = shape;
  const part = {
    name,
    kind: format.kind,
    dtype: format.kind === 'dense' ? format.dtype : ('bf16' as const),
    numRows,
    numColumns,
    groupSize: isQuantized(format) ? format.groupSize : 0,
    radix: format.kind === 'nested8' ? format.radix : 1,
    hadamardBlock: isQuantized(format) ? format.hadamardBlock : 0,
  };
  if ('data' in source) {
    const elementBytes = source.format.dtype === 'f32' ? 4 : 2;
    return { ...part, dense: expectArray(name, 'data', source.data, Uint8Array, numRows * numColumns * elementBytes) };
  }
  const { groupSize } = source.format;
  if (numColumns % groupSize !== 0) {
    throw new UnsupportedFormatError(
      `Expected \`groupSize\` of ${name} to divide ${numColumns} but received ${groupSize}.`,
      { tensor: name, groupSize, numColumns },
    );
  }
  const numWords = (numRows * numColumns) / 8;
  const scales = expectArray(name, 'scales', source.scales, Uint16Array, (numRows * numColumns) / groupSize);
  const hi = expectArray(name, 'hi', source.hi, Int32Array, numWords);
  if (!('lo' in source)) return { ...part, hi, scales };
  return { ...part, hi, lo: expectArray(name, 'lo', source.lo, Int32Array, numWords), scales };
}

function expectArray<T extends Uint8Array | Uint16Array | Int32Array>(
  tensor: string,
  field: string,
  array: T,
  type: new (length: number) => T,
  length: number,
): T {
  if (!(array instanceof type) || array.length !== length) {
    const received = ArrayBuffer.isView(array) ? `${array.constructor.name} of ${array.length}` : typeof array;
    throw new ShapeMismatchError(
      `Expected \`${field}\` of ${tensor} to be ${type.name} of ${length} elements but received ${received}.`,
      { tensor, field, expected: length },
    );
  }
  if ((array.buffer as { resizable?: boolean }).resizable === true) {
    throw new UnsupportedFormatError(
      `Expected \`${field}\` of ${tensor} to lie in a buffer of fixed size but it is resizable: copy it first.`,
      { tensor, field },
    );
  }
  return array;
}
