/** A safetensors file from a header and data, right or wrong. */
export function safetensorsBytes(
  header: unknown,
  data: Uint8Array = new Uint8Array(),
  claimedLength?: number,
): Uint8Array {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(claimedLength ?? text.length));
  return Buffer.concat([length, text, data]);
}
