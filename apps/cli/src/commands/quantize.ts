import { openCheckpoint } from '@qspec/checkpoint';
import { type QuantizeResult, quantize, type Recipe } from '@qspec/quantizer';
import { type Command, Option } from 'commander';
import type { CliContext, Guard } from '../context.js';
import { number } from '../options.js';
import { formatBytes, formatPercent, renderTable } from '../render.js';

interface QuantizeCommandOptions {
  scheme: 'w4' | 'nested8';
  groupSize: 32 | 64 | 128;
  hadamard: number;
  radix: number;
  head: 'keep' | 'nested8';
  workers?: number;
  overwrite?: boolean;
  layers?: boolean;
}

export function registerQuantize(program: Command, context: CliContext, guard: Guard): void {
  program
    .command('quantize')
    .description('quantise a checkpoint once; the artifact serves draft and target modes')
    .argument('<model>', 'Hugging Face folder or GGUF file')
    .argument('<output>', 'folder to create')
    .addOption(
      new Option('--scheme <name>', 'w4: 4-bit target; nested8: 8-bit target that holds its own 4-bit draft')
        .choices(['w4', 'nested8'])
        .default('w4'),
    )
    .option('--group-size <n>', 'elements along K that share a scale: 32, 64 or 128', number, 128)
    .option('--hadamard <block>', 'rotate inputs by a block-Hadamard matrix of this size; 0 = none', number, 0)
    .option('--radix <n>', 'nested8: low steps in a high step, 8 to 15', number, 12)
    .addOption(new Option('--head <format>', 'embeddings and lm_head').choices(['keep', 'nested8']).default('keep'))
    .option('--workers <n>', 'worker threads (default: physical cores)', number)
    .option('--overwrite', 'replace an artifact that is there')
    .option('--layers', 'print the error of every matrix')
    .action(
      guard(async (model: string, output: string, options: QuantizeCommandOptions) => {
        const result = await runQuantize(model, output, options, context);
        if (program.opts()['json']) context.printJson(result);
        else printResult(result, options.layers ?? false, context);
      }),
    );
}

async function runQuantize(
  model: string,
  output: string,
  options: QuantizeCommandOptions,
  context: CliContext,
): Promise<QuantizeResult> {
  await using checkpoint = await openCheckpoint(model);
  const bar = context.progress();
  const recipe: Recipe = {
    scheme: options.scheme,
    groupSize: options.groupSize,
    hadamardBlock: options.hadamard,
    radix: options.radix,
    head: options.head,
    embeddings: options.head,
  };
  try {
    return await quantize({
      checkpoint,
      outputPath: output,
      recipe,
      ...(options.workers !== undefined && { numWorkers: options.workers }),
      overwrite: options.overwrite ?? false,
      signal: context.interrupt.signal,
      onProgress: (event) => {
        if (event.type === 'progress') bar.update(event.numWeightsDone, event.numWeights, event.name);
      },
    });
  } finally {
    bar.finish();
  }
}

function printResult({ report, artifact }: QuantizeResult, withLayers: boolean, context: CliContext): void {
  if (withLayers) {
    const rows = report.layers.map((layer) => [
      layer.name,
      layer.shape.join('x'),
      layer.relativeError.hi.toFixed(5),
      layer.relativeError.full.toFixed(5),
      formatPercent(layer.clippedWeights),
    ]);
    context.print(renderTable(['matrix', 'shape', '4-bit error', 'full error', 'clipped'], rows));
  }
  const { hi, full } = report.total.relativeError;
  context.print(`${artifact.path}: ${formatBytes(artifact.totalBytes)} in ${artifact.numShards} shard(s)`);
  context.print(
    `relative error of the weights: 4-bit plane ${hi.toFixed(4)}${full === hi ? '' : `, both planes ${full.toFixed(5)}`}`,
  );
}
