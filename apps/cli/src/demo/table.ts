import { countIdentical, type ProblemRun } from '../evaluation/run-problems.js';
import { formatPercent, renderTable } from '../render.js';
import type { Configuration } from './configurations.js';

export interface DemoResult {
  readonly configuration: Configuration;
  readonly run: ProblemRun;
}

/** What the README's first screen shows. */
export function demoTable(results: readonly DemoResult[]): string {
  const header = ['', 'exact match', 'tokens/s', 'acceptance', 'tokens a round', 'text identical to target'];
  return renderTable(
    header,
    results.map((result) => row(result, results)),
  );
}

function row({ configuration, run }: DemoResult, results: readonly DemoResult[]): string[] {
  const { speculation, completions } = run;
  const isSpeculative = speculation.proposedTokens > 0;
  const target = results.find((other) => other.configuration.name === configuration.target);
  const identical = target && countIdentical(completions, target.run.completions);
  return [
    configuration.name,
    `${run.numCorrect}/${completions.length}`,
    (run.numTokens / run.seconds).toFixed(0),
    isSpeculative ? formatPercent(speculation.acceptanceRate) : '–',
    isSpeculative ? speculation.meanAcceptedLength.toFixed(2) : '–',
    identical === undefined
      ? '–'
      : `${identical === completions.length ? 'yes' : 'NO'}, ${identical} of ${completions.length}`,
  ];
}

/** Does every speculative run repeat its target, token for token? */
export function allIdentical(results: readonly DemoResult[]): boolean {
  return results.every(({ configuration, run }) => {
    const target = results.find((other) => other.configuration.name === configuration.target);
    return !target || countIdentical(run.completions, target.run.completions) === run.completions.length;
  });
}
