import { readFileSync } from 'node:fs';

/** One combination of testing/vectors/golden.json; arrays are little-endian in base64. */
export interface GoldenCase {
  readonly groupSize: 32 | 64 | 128;
  readonly hadamardBlock: number;
  readonly clipSearch: 'none' | 'exhaustive';
  /** 0: W4 alone. */
  readonly radix: number;
  readonly scales: string;
  readonly hi: string;
  /** Empty for W4. */
  readonly lo: string;
  readonly hiError: number;
  readonly fullError: number;
  /** Squared error of each group. */
  readonly groupErrors: readonly number[];
}

export interface Golden {
  readonly shape: readonly [number, number];
  readonly weights: string;
  readonly rotated64: string;
  readonly cases: readonly GoldenCase[];
}

export function readGolden(): Golden {
  return JSON.parse(readFileSync(new URL('./vectors/golden.json', import.meta.url), 'utf8')) as Golden;
}

export function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.from(base64, 'base64'));
}

export const floats = (base64: string) => new Float32Array(bytesOf(base64).buffer);
export const words = (base64: string) => new Int32Array(bytesOf(base64).buffer);
export const halves = (base64: string) => new Uint16Array(bytesOf(base64).buffer);
