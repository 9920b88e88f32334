import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface GoldenPrompt {
  readonly tokens: number[];
  /** Positions whose logits are kept. */
  readonly rows: number[];
  /** [rows.length, vocabSize] */
  readonly logits: Float32Array;
}

const VECTORS = new URL('./vectors/', import.meta.url);

export function vectorPath(name: string): string {
  return fileURLToPath(new URL(name, VECTORS));
}

export function readGolden(file: string): GoldenPrompt[] {
  const { prompts } = JSON.parse(readFileSync(vectorPath(file), 'utf8')) as {
    prompts: { tokens: number[]; rows: number[]; logits: string }[];
  };
  return prompts.map(({ tokens, rows, logits }) => {
    const bytes = Uint8Array.from(Buffer.from(logits, 'base64'));
    return { tokens, rows, logits: new Float32Array(bytes.buffer) };
  });
}

/** How far rows of logits are from what they should be. */
export interface LogitsError {
  /** max |actual - expected| / max |expected|, the worst row. */
  readonly relativeToLargest: number;
  /** Lowest cosine of a row. */
  readonly cosine: number;
  /** For messages: where the worst element is and both values. */
  readonly worst: string;
}

export function compareLogits(actual: Float32Array, expected: Float32Array, vocabSize: number): LogitsError {
  if (actual.length !== expected.length) throw new Error(`${actual.length} logits instead of ${expected.length}`);
  let result: LogitsError = { relativeToLargest: 0, cosine: 1, worst: '' };
  for (let start = 0; start < expected.length; start += vocabSize) {
    const row = compareRow(actual.subarray(start, start + vocabSize), expected.subarray(start, start + vocabSize));
    const isWorse = !(row.error <= result.relativeToLargest);
    const { cosine } = row;
    result = {
      relativeToLargest: isWorse ? row.error : result.relativeToLargest,
      cosine: Math.min(cosine, result.cosine),
      worst: isWorse ? `row ${start / vocabSize}, ${row.worst}` : result.worst,
    };
  }
  return result;
}

function compareRow(actual: Float32Array, expected: Float32Array) {
  let [dot, aa, ee, largest, difference, worst] = [0, 0, 0, 0, 0, 0];
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i]!, expected[i]!];
    if (!Number.isFinite(a)) return { error: Number.NaN, cosine: Number.NaN, worst: `token ${i}: ${a}` };
    dot += a * e;
    aa += a * a;
    ee += e * e;
    largest = Math.max(largest, Math.abs(e));
    if (Math.abs(a - e) > difference) [difference, worst] = [Math.abs(a - e), i];
  }
  const text = `token ${worst}: ${actual[worst]} instead of ${expected[worst]}`;
  return { error: difference / largest, cosine: dot / Math.sqrt(aa * ee), worst: text };
}
