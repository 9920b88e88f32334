/** GPT-2's printable stand-ins: byte → character, such that no token has white space or control characters in it. */
const BYTE_TO_CHAR: readonly string[] = byteToChar();
const CHAR_TO_BYTE: ReadonlyMap<string, number> = new Map(BYTE_TO_CHAR.map((char, byte) => [char, byte]));

function byteToChar(): string[] {
  const table: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table.push(String.fromCharCode(printable ? byte : next++));
  }
  return table;
}

const utf8 = new TextEncoder();

/** Bytes that a token of a byte-level vocabulary stands for; a token with foreign characters stands for its own text. */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = CHAR_TO_BYTE.get(token[i] as string);
    if (byte === undefined) return utf8.encode(token);
    bytes[i] = byte;
  }
  return bytes;
}

/** Text as the characters a byte-level vocabulary is written in. */
export function toByteLevel(text: string): string {
  let mapped = '';
  for (const byte of utf8.encode(text)) mapped += BYTE_TO_CHAR[byte];
  return mapped;
}
