import { readFile } from 'node:fs/promises';
import { CheckpointError } from '@qspec/core';

/** A question with a checkable answer: our `heldout.jsonl` and GSM8K have the same fields. */
export interface Problem {
  readonly question: string;
  readonly answer: string;
  readonly kind?: string;
}

/** The first `limit` problems of a JSON-lines file. @throws CheckpointError naming the line that is not one. */
export async function readProblems(path: string, limit = Number.POSITIVE_INFINITY): Promise<Problem[]> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new CheckpointError(`Could not read the problems in ${path}.`, { path }, cause);
  });
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return lines.slice(0, limit).map((line, index) => parseProblem(line, `${path}:${index + 1}`));
}

function parseProblem(line: string, place: string): Problem {
  try {
    const value = JSON.parse(line) as Problem;
    if (typeof value.question === 'string' && typeof value.answer === 'string') return value;
  } catch {
    // falls through to the one message for both
  }
  throw new CheckpointError(`Expected a JSON object with text \`question\` and \`answer\` at ${place}.`, { place });
}

/** What counts: the part after the last `####`, without surrounding space; undefined when there is none. */
export function finalAnswer(text: string): string | undefined {
  const at = text.lastIndexOf('####');
  return at < 0 ? undefined : text.slice(at + 4).trim();
}

export function isCorrect(output: string, problem: Problem): boolean {
  const expected = finalAnswer(problem.answer);
  return expected !== undefined && finalAnswer(output) === expected;
}
