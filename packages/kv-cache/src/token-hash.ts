/** A hash of a page's tokens, chained to what precedes it. An integer below 2^53. */
export type TokenHash = (previous: number, tokens: ArrayLike<number>, start: number, count: number) => number;

/**
 * Two 32-bit multiply-rotate lanes (in the manner of MurmurHash3), seeded by the two halves of `previous`, folded to 53 bits.
 * Only speed depends on its quality: the prefix cache compares tokens too.
 */
export const hashTokens: TokenHash = (previous, tokens, start, count) => {
  let a = ((previous % 2 ** 32) | 0) ^ 0x9e3779b9;
  let b = (Math.floor(previous / 2 ** 32) | 0) ^ 0x85ebca6b;
  for (let i = start; i < start + count; i++) {
    const token = tokens[i]! | 0;
    a = Math.imul(rotateLeft(a ^ Math.imul(token, 0xcc9e2d51), 15), 0x1b873593) + 0xe6546b64;
    b = Math.imul(rotateLeft(b ^ Math.imul(token, 0x38b34ae5), 13), 0xa1e38b93) + 0x561ccd1b;
  }
  a = finish(a ^ count);
  b = finish(b ^ a);
  return (b & 0x1fffff) * 2 ** 32 + (a >>> 0);
};

/** Where a namespace's chain begins. */
export function hashNamespace(namespace: string): number {
  const units = Uint16Array.from({ length: namespace.length }, (_, index) => namespace.charCodeAt(index));
  return hashTokens(0, units, 0, units.length);
}

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

function finish(value: number): number {
  let mixed = value ^ (value >>> 16);
  mixed = Math.imul(mixed, 0x85ebca6b);
  mixed ^= mixed >>> 13;
  mixed = Math.imul(mixed, 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}
