import type { GenerateRequest } from '@qspec/engine';
import type { Command } from 'commander';
import { type ByteLimit, measureByteLimit } from '../bench/byte-limit.js';
import { type BenchSample, benchTable, measureInterleaved } from '../bench/interleaved.js';
import type { CliContext, Guard } from '../context.js';
import { loadLlm } from '../load-model.js';
import { addModelOptions, type ModelOptions, number } from '../options.js';
import { describeSpeculation } from '../speculation-summary.js';

interface BenchOptions extends ModelOptions {
  prompt: string;
  newTokens: number;
  batch: number;
  runs: number;
}

const DEFAULT_PROMPT =
  'Write down everything you know about the history of mathematics, from counting to calculus, in order.';

export function registerBench(program: Command, context: CliContext, guard: Guard): void {
  const command = program
    .command('bench')
    .description(
      'time plain and speculative decoding of the same prompt, interleaved, beside the byte limit of this machine',
    )
    .argument('<model>', 'artifact, Hugging Face folder or GGUF file')
    .option('-p, --prompt <text>', 'what to continue (acceptance depends on it)', DEFAULT_PROMPT)
    .option('-n, --new-tokens <n>', 'tokens to emit', number, 128)
    .option('-b, --batch <n>', 'requests at once', number, 1)
    .option('--runs <n>', 'repeats of each; medians are printed', number, 5);
  addModelOptions(command).action(
    guard(async (model: string, options: BenchOptions) => {
      const { loaded, llm } = await loadLlm(model, options, context);
      await using _ = loaded;
      const bar = context.progress();
      const samples = await measureInterleaved(llm, {
        waves: [sameRequests(options)],
        runs: options.runs,
        signal: context.interrupt.signal,
        onRun: (done, total) => bar.update(done, total, 'bench'),
      }).finally(() => bar.finish());
      const limit = await measureByteLimit(model, llm.stats().target, loaded.backend);
      report(program, context, llm.stats(), samples, limit, options.batch);
    }),
  );
}

function sameRequests({ prompt, newTokens, batch }: BenchOptions): GenerateRequest[] {
  const request = { prompt, temperature: 0, maxTokens: newTokens, ignoreEos: true };
  return Array.from({ length: batch }, () => request);
}

function report(
  program: Command,
  context: CliContext,
  stats: { readonly target: string; readonly draft: string | undefined; readonly gamma: number },
  samples: readonly BenchSample[],
  limit: ByteLimit,
  batch: number,
): void {
  if (program.opts()['json']) {
    context.printJson({ ...stats, samples, byteLimit: limit });
    return;
  }
  context.print(benchTable(samples, batch === 1 ? limit : undefined));
  context.print(
    `byte limit: ${(limit.bytesPerStep / 1e6).toFixed(1)} MB of weights a plain step at ${(limit.bytesPerSecond / 1e9).toFixed(1)} GB/s read (measured now) = ${limit.stepsPerSecond.toFixed(0)} steps/s`,
  );
  const speculative = samples.find((sample) => sample.gamma > 0);
  if (speculative) {
    context.print(describeSpeculation(speculative.speculation));
    context.print(`text identical to plain decoding: ${speculative.isIdentical ? 'yes' : 'NO'}`);
  }
}
