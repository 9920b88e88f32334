import type { Completion, LLM, SpeculationStats } from '@qspec/engine';
import { isCorrect, type Problem } from './problems.js';

export interface ProblemRun {
  readonly completions: readonly Completion[];
  readonly numCorrect: number;
  readonly numTokens: number;
  readonly seconds: number;
  readonly speculation: SpeculationStats;
}

export interface ProblemRunOptions {
  readonly maxTokens: number;
  /** Draft tokens a round; absent: what the model was loaded with. */
  readonly gamma?: number;
  readonly signal?: AbortSignal;
  readonly onDone?: (numDone: number) => void;
}

/** Asks every problem through the chat template, greedily; the engine batches what fits. */
export async function runProblems(
  llm: LLM,
  problems: readonly Problem[],
  options: ProblemRunOptions,
): Promise<ProblemRun> {
  const { maxTokens, gamma, signal, onDone } = options;
  const startMs = performance.now();
  let numDone = 0;
  const completions = await Promise.all(
    problems.map(async ({ question }) => {
      const completion = await llm.generate({
        messages: [{ role: 'user', content: question }],
        temperature: 0,
        maxTokens,
        ...(gamma !== undefined && { gamma }),
        ...(signal && { signal }),
      });
      onDone?.(++numDone);
      return completion;
    }),
  );
  return {
    completions,
    seconds: (performance.now() - startMs) / 1000,
    numCorrect: completions.filter(({ text }, i) => isCorrect(text, problems[i]!)).length,
    numTokens: completions.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    speculation: sumSpeculation(completions.map((completion) => completion.speculation)),
  };
}

/** How many of the runs emitted the very same tokens. */
export function countIdentical(a: readonly Completion[], b: readonly Completion[]): number {
  return a.filter(({ tokenIds }, i) => {
    const other = b[i]!.tokenIds;
    return tokenIds.length === other.length && tokenIds.every((id, at) => id === other[at]);
  }).length;
}

/** Rates over all requests together, weighted by what each proposed. */
export function sumSpeculation(parts: readonly SpeculationStats[]): SpeculationStats {
  const sum = (of: (part: SpeculationStats) => number) => parts.reduce((total, part) => total + of(part), 0);
  const proposedTokens = sum((part) => part.proposedTokens);
  const acceptedTokens = sum((part) => part.acceptedTokens);
  const rounds = sum((part) => part.rounds);
  const depth = Math.max(0, ...parts.map((part) => part.acceptanceByPosition.length));
  const acceptanceByPosition = Array.from({ length: depth }, (_, position) => {
    const deep = parts.filter((part) => part.acceptanceByPosition.length > position);
    const weight = deep.reduce((total, part) => total + part.rounds, 0);
    return weight
      ? deep.reduce((total, part) => total + part.acceptanceByPosition[position]! * part.rounds, 0) / weight
      : 0;
  });
  return {
    proposedTokens,
    acceptedTokens,
    rounds,
    acceptanceRate: proposedTokens ? acceptedTokens / proposedTokens : 0,
    meanAcceptedLength: rounds ? (acceptedTokens + rounds) / rounds : 0,
    acceptanceByPosition,
  };
}
