import { readFile } from 'node:fs/promises';
import { CheckpointError, ConfigError } from '@qspec/core';
import type { LLM } from '@qspec/engine';
import type { Command } from 'commander';
import type { CliContext, Guard } from '../context.js';
import { type Problem, readProblems } from '../evaluation/problems.js';
import { countIdentical, type ProblemRun, runProblems } from '../evaluation/run-problems.js';
import { loadLlm } from '../load-model.js';
import { addModelOptions, type ModelOptions, number } from '../options.js';
import { formatPercent, renderTable } from '../render.js';
import { describeSpeculation } from '../speculation-summary.js';

interface EvalOptions extends ModelOptions {
  perplexity?: string;
  window: number;
  windows?: number;
  problems?: string;
  limit?: number;
  maxTokens: number;
}

export function registerEval(program: Command, context: CliContext, guard: Guard): void {
  const command = program
    .command('eval')
    .description(
      'measure quality: perplexity of a text, exact match of problems; with a draft, that speculation keeps every token',
    )
    .argument('<model>', 'artifact, Hugging Face folder or GGUF file')
    .option('--perplexity <file>', 'text to score in windows one after another')
    .option('--window <tokens>', 'tokens a window', number, 1024)
    .option('--windows <n>', 'first n windows (default: all)', number)
    .option('--problems <file>', 'JSON lines with question and answer; what counts follows the last ####')
    .option('--limit <n>', 'first n problems (default: all)', number)
    .option('-n, --max-tokens <n>', 'most new tokens a problem', number, 300);
  addModelOptions(command).action(
    guard(async (model: string, options: EvalOptions) => {
      if (!options.perplexity && !options.problems)
        throw new ConfigError('Expected --perplexity or --problems but received neither.');
      const problems = options.problems ? await readProblems(options.problems, options.limit) : undefined;
      const text = options.perplexity ? await readText(options.perplexity) : undefined;
      const { loaded, llm } = await loadLlm(model, options, context);
      await using _ = loaded;
      const result = {
        ...(text !== undefined && { perplexity: await perplexity(llm, text, options, context) }),
        ...(problems && { problems: await evaluateProblems(llm, problems, options, context) }),
      };
      if (program.opts()['json']) context.printJson(result);
    }),
  );
}

async function readText(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((cause: unknown) => {
    throw new CheckpointError(`Could not read the text in ${path}.`, { path }, cause);
  });
}

async function perplexity(llm: LLM, text: string, options: EvalOptions, context: CliContext) {
  const bar = context.progress();
  const startMs = performance.now();
  const result = await llm.perplexity(text, {
    windowLen: options.window,
    ...(options.windows !== undefined && { maxWindows: options.windows }),
    onWindow: ({ numDone, numWindows, perplexity }) => {
      context.interrupt.signal.throwIfAborted();
      bar.update(numDone, numWindows, `perplexity ${perplexity.toFixed(2)}`);
    },
  });
  bar.finish();
  const seconds = (performance.now() - startMs) / 1000;
  context.note(
    `perplexity ${result.perplexity.toFixed(3)} over ${result.numPredictions} predictions in ${result.numWindows} windows of ${options.window}, ${seconds.toFixed(1)} s`,
  );
  return { ...result, seconds };
}

/** Plain decoding first; with a draft a second time speculatively, and the two compared token for token. */
async function evaluateProblems(llm: LLM, problems: readonly Problem[], options: EvalOptions, context: CliContext) {
  const { draft, gamma } = llm.stats();
  const plain = await runOnce(llm, problems, options, context, 0);
  const speculative = draft && gamma > 0 ? await runOnce(llm, problems, options, context, gamma) : undefined;
  const identical = speculative && countIdentical(plain.completions, speculative.completions);
  const row = (name: string, run: ProblemRun) => [
    name,
    `${run.numCorrect}`,
    formatPercent(run.numCorrect / problems.length),
    (run.numTokens / run.seconds).toFixed(1),
  ];
  const rows = [row('plain', plain), ...(speculative ? [row(`speculative, γ ${gamma}`, speculative)] : [])];
  context.note(renderTable(['decoding', `correct of ${problems.length}`, 'share', 'tokens/s'], rows));
  if (speculative)
    context.note(
      `identical token for token: ${identical} of ${problems.length}; ${describeSpeculation(speculative.speculation)}`,
    );
  return {
    numProblems: problems.length,
    plain: figures(plain),
    ...(speculative && { speculative: figures(speculative), identical }),
  };
}

async function runOnce(
  llm: LLM,
  problems: readonly Problem[],
  options: EvalOptions,
  context: CliContext,
  gamma: number,
): Promise<ProblemRun> {
  const bar = context.progress();
  try {
    return await runProblems(llm, problems, {
      maxTokens: options.maxTokens,
      gamma,
      signal: context.interrupt.signal,
      onDone: (numDone) => bar.update(numDone, problems.length, gamma > 0 ? 'problems, speculative' : 'problems'),
    });
  } finally {
    bar.finish();
  }
}

function figures({ numCorrect, numTokens, seconds, speculation }: ProblemRun) {
  return { numCorrect, numTokens, seconds, tokensPerSecond: numTokens / seconds, speculation };
}
