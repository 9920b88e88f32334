import { ShapeMismatchError } from '@qspec/core';

/**
 * 4-bit codes as compressed-tensors' `pack-quantized` stores them: eight along K in one 32-bit word, the first in the lowest nibble,
 * each as code + 8. As K is a multiple of 8, a whole matrix packs like one long row.
 *
 * ```text
 * bits  31-28 27-24 23-20 19-16 15-12 11-8  7-4   3-0
 * k =     7     6     5     4     3     2     1     0     (+ 8 · word)
 * ```
 *
 * @param codes each in [-8, 7]; a multiple of eight of them.
 * @returns codes.length / 8 words.
 * @throws ShapeMismatchError when the length is no multiple of 8.
 */
export function packNibbles(codes: Int8Array): Int32Array {
  if (codes.length % 8 !== 0) {
    throw new ShapeMismatchError(`Expected the number of codes to be a multiple of 8 but received ${codes.length}.`, {
      received: codes.length,
    });
  }
  const words = new Int32Array(codes.length / 8);
  for (let word = 0, i = 0; word < words.length; word++, i += 8) {
    words[word] =
      (codes[i]! + 8) |
      ((codes[i + 1]! + 8) << 4) |
      ((codes[i + 2]! + 8) << 8) |
      ((codes[i + 3]! + 8) << 12) |
      ((codes[i + 4]! + 8) << 16) |
      ((codes[i + 5]! + 8) << 20) |
      ((codes[i + 6]! + 8) << 24) |
      ((codes[i + 7]! + 8) << 28);
  }
  return words;
}

/** Inverse of {@link packNibbles}: eight codes a word. */
export function unpackNibbles(words: Int32Array): Int8Array {
  const codes = new Int8Array(words.length * 8);
  for (let i = 0; i < codes.length; i++) codes[i] = ((words[i >>> 3]! >>> ((i & 7) * 4)) & 15) - 8;
  return codes;
}
