import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '@qspec/checkpoint';
import { quantize } from '@qspec/quantizer';
import type { Command } from 'commander';
import type { CliContext, Guard } from '../context.js';
import { ARTIFACTS, type Configuration, configurations, type WeightsName } from '../demo/configurations.js';
import { allIdentical, type DemoResult, demoTable } from '../demo/table.js';
import { type Problem, readProblems } from '../evaluation/problems.js';
import { runProblems } from '../evaluation/run-problems.js';
import { EXIT } from '../exit-codes.js';
import { type LoadedModel, loadModel } from '../load-model.js';
import { number } from '../options.js';
import { formatBytes } from '../render.js';
import { colorDrafted, describeSpeculation } from '../speculation-summary.js';

const WEIGHTS: readonly WeightsName[] = ['original', ...(Object.keys(ARTIFACTS) as WeightsName[])];

interface DemoOptions {
  model: string;
  limit: number;
  gamma: number;
  maxTokens: number;
  threads?: number;
}

export function registerDemo(program: Command, context: CliContext, guard: Guard): void {
  program
    .command('demo')
    .description('quantise the small trained model, run it in every mode, and compare on problems it never saw')
    .option('--model <folder>', 'a checkpoint with heldout.jsonl beside it', 'models/tally-10m')
    .option('--limit <n>', 'problems', number, 500)
    .option('--gamma <n>', 'tokens drafted a round', number, 3)
    .option('-n, --max-tokens <n>', 'most new tokens a problem', number, 300)
    .option('--threads <n>', 'worker threads (default: physical cores)', number)
    .action(
      guard(async (options: DemoOptions) => {
        const folder = await mkdtemp(join(tmpdir(), 'qspec-demo-'));
        try {
          await demo(options, folder, context, Boolean(program.opts()['json']));
        } finally {
          await rm(folder, { recursive: true, force: true });
        }
      }),
    );
}

async function demo(options: DemoOptions, folder: string, context: CliContext, json: boolean): Promise<void> {
  const problems = await readProblems(join(options.model, 'heldout.jsonl'), options.limit);
  const all = configurations(options.gamma);
  await quantizeAll(options.model, folder, context);
  const results: DemoResult[] = [];
  for (const weights of WEIGHTS) {
    const path = weights === 'original' ? options.model : join(folder, weights);
    await using loaded = await loadModel(
      path,
      { device: 'auto', ...(options.threads !== undefined && { threads: options.threads }) },
      context,
    );
    for (const configuration of all.filter((candidate) => candidate.weights === weights)) {
      results.push(await measure(loaded, configuration, problems, options, context));
    }
    if (weights === WEIGHTS.at(-1) && !json) {
      context.print(
        `\n${demoTable(results.sort((a, b) => all.indexOf(a.configuration) - all.indexOf(b.configuration)))}`,
      );
      await showAnswers(loaded, problems.slice(-2), options, context);
    }
  }
  if (json)
    context.printJson(results.map(({ configuration, run }) => ({ ...configuration, ...run, completions: undefined })));
  if (!allIdentical(results)) {
    context.note(
      'A speculative text differs from its target: this is a bug. Please report the table above with your processor.',
    );
    context.exitCode = EXIT.failure;
  }
}

/** The three artifacts, from one original. */
async function quantizeAll(model: string, folder: string, context: CliContext): Promise<void> {
  await using checkpoint = await openCheckpoint(model);
  for (const [name, recipe] of Object.entries(ARTIFACTS)) {
    const bar = context.progress();
    const { report, artifact } = await quantize({
      checkpoint,
      recipe,
      outputPath: join(folder, name),
      signal: context.interrupt.signal,
      onProgress: (event) => {
        if (event.type === 'progress')
          bar.update(event.numWeightsDone, event.numWeights, `quantising ${name}: ${event.name}`);
      },
    }).finally(() => bar.finish());
    const { hi, full } = report.total.relativeError;
    context.note(
      `quantised ${name}: ${formatBytes(artifact.totalBytes)}, relative error ${hi.toFixed(4)}${full === hi ? '' : ` (both planes ${full.toFixed(4)})`}`,
    );
  }
}

async function measure(
  loaded: LoadedModel,
  configuration: Configuration,
  problems: readonly Problem[],
  options: DemoOptions,
  context: CliContext,
): Promise<DemoResult> {
  const llm = await loaded.run(configuration.options);
  const bar = context.progress();
  try {
    const run = await runProblems(llm, problems, {
      maxTokens: options.maxTokens,
      signal: context.interrupt.signal,
      onDone: (numDone) => bar.update(numDone, problems.length, configuration.name),
    });
    return { configuration, run };
  } finally {
    bar.finish();
    await llm.close();
  }
}

/** Two answers as they come, drafted tokens in another colour. */
async function showAnswers(
  loaded: LoadedModel,
  problems: readonly Problem[],
  options: DemoOptions,
  context: CliContext,
): Promise<void> {
  const llm = await loaded.run({ draft: 'w4a8', gamma: options.gamma });
  for (const { question } of problems) {
    context.print(`\n${context.colors.bold(question)}`);
    const request = { messages: [{ role: 'user', content: question }], temperature: 0, maxTokens: options.maxTokens };
    for await (const event of llm.stream({ ...request, signal: context.interrupt.signal })) {
      if (event.type === 'text-delta') context.stdout.write(colorDrafted(event, context.colors));
      else
        context.print(
          `\n${context.colors.dim(`${event.timings.decodeTokensPerSecond.toFixed(0)} tokens/s, ${describeSpeculation(event.speculation)}`)}`,
        );
    }
  }
}
