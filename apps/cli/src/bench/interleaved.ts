import type { GenerateRequest, GenerateResult, LLM, SpeculationStats } from '@qspec/engine';
import { countIdentical, sumSpeculation } from '../evaluation/run-problems.js';
import { formatPercent, renderTable } from '../render.js';
import type { ByteLimit } from './byte-limit.js';

export interface BenchSample {
  readonly gamma: number;
  /** Tokens a second over all requests, one entry a run. */
  readonly tokensPerSecond: readonly number[];
  readonly speculation: SpeculationStats;
  /** The last run's tokens equal plain decoding's. */
  readonly isIdentical: boolean;
}

export interface BenchSettings {
  /** The requests of a wave run together, the waves one after another. */
  readonly waves: readonly (readonly GenerateRequest[])[];
  readonly runs: number;
  readonly signal?: AbortSignal;
  readonly onRun?: (numDone: number, numTotal: number) => void;
}

/** Plain, speculative, plain, speculative, …: drift of the machine hits both alike. One uncounted warm-up each. */
export async function measureInterleaved(llm: LLM, settings: BenchSettings): Promise<BenchSample[]> {
  const { draft, gamma } = llm.stats();
  const gammas = draft && gamma > 0 ? [0, gamma] : [0];
  const runs = new Map<number, { rates: number[]; last: GenerateResult[] }>(
    gammas.map((g) => [g, { rates: [], last: [] }]),
  );
  for (let round = 0; round <= settings.runs; round++) {
    for (const g of gammas) {
      const { results, tokensPerSecond } = await runOnce(llm, settings, g);
      runs.get(g)!.last = results;
      if (round > 0) runs.get(g)!.rates.push(tokensPerSecond);
    }
    settings.onRun?.(round + 1, settings.runs + 1);
  }
  const plain = runs.get(0)!.last;
  return gammas.map((g) => {
    const { rates, last } = runs.get(g)!;
    return {
      gamma: g,
      tokensPerSecond: rates,
      speculation: sumSpeculation(last.map((result) => result.speculation)),
      isIdentical: countIdentical(last, plain) === last.length,
    };
  });
}

/** Decoding only: of each wave from the first token to the last. */
async function runOnce(llm: LLM, { waves, signal }: BenchSettings, gamma: number) {
  const results: GenerateResult[] = [];
  let decodeMs = 0;
  for (const wave of waves) {
    const done = await Promise.all(
      wave.map((request) => llm.generate({ ...request, gamma, ...(signal && { signal }) })),
    );
    decodeMs += Math.max(...done.map((result) => result.timings.decodeMs));
    results.push(...done);
  }
  const numTokens = results.reduce((sum, result) => sum + result.tokenIds.length - 1, 0);
  return { results, tokensPerSecond: (1000 * numTokens) / decodeMs };
}

export function benchTable(samples: readonly BenchSample[], limit?: ByteLimit): string {
  const plain = median(samples[0]!.tokensPerSecond);
  const rows = samples.map(({ gamma, tokensPerSecond }) => {
    const middle = median(tokensPerSecond);
    return [
      gamma === 0 ? 'plain' : `speculative, γ ${gamma}`,
      middle.toFixed(1),
      `${Math.min(...tokensPerSecond).toFixed(1)} to ${Math.max(...tokensPerSecond).toFixed(1)}`,
      (middle / plain).toFixed(2),
      gamma === 0 && limit ? formatPercent(middle / limit.stepsPerSecond) : '–',
    ];
  });
  return renderTable(['decoding', 'tokens/s', 'range', 'x plain', 'of byte limit'], rows);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
