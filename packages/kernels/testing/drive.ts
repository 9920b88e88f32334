import {
  type ForwardBatch,
  type ForwardResult,
  needsTokenHistory,
  type ResolvedSamplingParams,
  type RoundBatch,
  type RoundResult,
  resolveSamplingParams,
  type SamplingParams,
  type Session,
} from '@qspec/core';
import { TINY } from './tiny-model.js';

/** Rows of one sequence, positions from `start`, its pages being `pages`; logits for all rows. */
export function chainBatch(tokens: Int32Array, start: number, pages: readonly number[]): ForwardBatch {
  const rows = tokens.length;
  return {
    program: 'target',
    tokens,
    positions: Int32Array.from({ length: rows }, (_, i) => start + i),
    sequences: new Int32Array(rows),
    pageOffsets: Int32Array.of(0, pages.length),
    pageIds: Int32Array.from(pages),
    logitRows: Int32Array.from({ length: rows }, (_, i) => i),
  };
}

/** Logits of every token, forwarded `chunk` rows at a time. */
export async function forwardAll(
  session: Session,
  tokens: Int32Array,
  chunk: number,
  pages: readonly number[],
): Promise<Float32Array> {
  const logits = new Float32Array(tokens.length * TINY.vocabSize);
  for (let start = 0; start < tokens.length; start += chunk) {
    const result: ForwardResult = await session.forward(chainBatch(tokens.slice(start, start + chunk), start, pages));
    logits.set(result.logits!, start * TINY.vocabSize);
  }
  return logits;
}

export interface Sequence {
  readonly prompt: Int32Array;
  readonly pages: readonly number[];
  readonly params: ResolvedSamplingParams;
  readonly stream: number;
  readonly output: number[];
}

export function newSequence(
  prompt: Int32Array,
  pages: readonly number[],
  params: SamplingParams = {},
  stream = 0,
): Sequence {
  return { prompt, pages, params: resolveSamplingParams(params), stream, output: [] };
}

type Propose = (sequence: Sequence, gamma: number) => readonly number[];

/** One round of all `sequences`: prompts where nothing was emitted yet, else one token and a draft. Appends what is emitted. */
export async function roundOf(
  session: Session,
  sequences: readonly Sequence[],
  gamma: number,
  propose?: Propose,
): Promise<RoundResult> {
  const inputs = sequences.map((s) => (s.output.length === 0 ? [...s.prompt] : [s.output.at(-1)!]));
  const gammas = sequences.map((s) => (s.output.length === 0 ? 0 : gamma));
  const batch: RoundBatch = {
    pageOffsets: offsets(sequences.map((s) => s.pages.length)),
    pageIds: Int32Array.from(sequences.flatMap((s) => s.pages)),
    tokenOffsets: offsets(inputs.map((tokens) => tokens.length)),
    tokens: Int32Array.from(inputs.flat()),
    startPositions: Int32Array.from(sequences, (s) =>
      s.output.length === 0 ? 0 : s.prompt.length + s.output.length - 1,
    ),
    emit: new Uint8Array(sequences.length).fill(1),
    gammas: Int32Array.from(gammas),
    ...(propose ? { draftTokens: Int32Array.from(sequences.flatMap((s, i) => propose(s, gammas[i]!))) } : {}),
    samplers: sequences.map((s) => ({
      params: s.params,
      stream: s.stream,
      history: needsTokenHistory(s.params) ? Int32Array.from([...s.prompt, ...s.output]) : new Int32Array(0),
      numPromptTokens: s.prompt.length,
    })),
  };
  const result = await session.round(batch);
  sequences.forEach((s, i) => {
    s.output.push(...result.tokens.slice(result.tokenOffsets[i], result.tokenOffsets[i + 1]));
  });
  return result;
}

/** Outputs of at least `length` tokens, cut to it. */
export async function generate(
  session: Session,
  sequences: readonly Sequence[],
  length: number,
  gamma: number,
  propose?: Propose,
): Promise<{ outputs: number[][]; numRounds: number }> {
  let numRounds = 0;
  while (sequences.some((s) => s.output.length < length)) {
    await roundOf(session, sequences, gamma, propose);
    numRounds++;
  }
  return { outputs: sequences.map((s) => s.output.slice(0, length)), numRounds };
}

function offsets(lengths: readonly number[]): Int32Array {
  const result = new Int32Array(lengths.length + 1);
  lengths.forEach((length, i) => {
    result[i + 1] = result[i]! + length;
  });
  return result;
}
