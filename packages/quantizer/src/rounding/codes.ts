/**
 * Adding and subtracting 1.5·2⁵² rounds a double of magnitude below 2⁵¹ to the nearest integer, ties to even (NumPy's `rint`):
 * two additions, where Math.round costs four times the whole loop around it (measured: 13 ns a weight against 3) and rounds ties up.
 */
const ROUNDING_MAGIC = 1.5 * 2 ** 52;

/** Nearest 4-bit code: clamp(round(value), -8, 7), ties to even. */
export function nearestCode(value: number): number {
  if (value >= 7) return 7;
  if (value <= -8) return -8;
  return value + ROUNDING_MAGIC - ROUNDING_MAGIC;
}

/** codes = nearestCode(values / scale), for `length` elements from `offset` on in both. */
export function roundToCodes(
  values: Float32Array,
  offset: number,
  length: number,
  scale: number,
  codes: Int8Array,
): void {
  const inverse = 1 / scale;
  for (let i = offset; i < offset + length; i++) codes[i] = nearestCode(values[i]! * inverse);
}

/** codes = nearestCode((values / scale - hi)·radix), for `length` elements from `offset` on in all three. */
export function roundResidual(
  values: Float32Array,
  hi: Int8Array,
  offset: number,
  length: number,
  scale: number,
  radix: number,
  codes: Int8Array,
): void {
  const inverse = 1 / scale;
  for (let i = offset; i < offset + length; i++) codes[i] = nearestCode((values[i]! * inverse - hi[i]!) * radix);
}

/** Result of {@link project}: Σ wq and Σ q². Module state, so that the hot loop allocates nothing. */
export const projection = { weightCode: 0, codeCode: 1 };

/** Rounds as {@link roundToCodes} does, but leaves only two sums in {@link projection}: all that the error at any scale needs. */
export function project(values: Float32Array, offset: number, length: number, scale: number): void {
  const inverse = 1 / scale;
  let weightCode = 0;
  let codeCode = 0;
  for (let i = offset; i < offset + length; i++) {
    const w = values[i]!;
    const code = nearestCode(w * inverse);
    weightCode += w * code;
    codeCode += code * code;
  }
  projection.weightCode = weightCode;
  projection.codeCode = codeCode;
}
