import { type Checkpoint, openCheckpoint, type TensorInfo } from '@qspec/checkpoint';
import type { Command } from 'commander';
import type { CliContext, Guard } from '../context.js';
import { formatBytes, renderTable } from '../render.js';

export function registerInspect(program: Command, context: CliContext, guard: Guard): void {
  program
    .command('inspect')
    .description('say what a checkpoint or artifact holds, without loading it')
    .argument('<model>', 'artifact, Hugging Face folder or GGUF file')
    .option('--tensors', 'list every tensor')
    .action(
      guard(async (model: string, options: { tensors?: boolean }) => {
        await using checkpoint = await openCheckpoint(model);
        const tensors = checkpoint.tensorNames.map((name) => checkpoint.tensorInfo(name));
        if (program.opts()['json']) context.printJson(asJson(checkpoint, tensors));
        else print(checkpoint, tensors, options.tensors ?? false, context);
      }),
    );
}

function asJson(checkpoint: Checkpoint, tensors: readonly TensorInfo[]) {
  const { kind, path, config, manifest } = checkpoint;
  return { kind, path, config, tensors, ...(manifest && { manifest }) };
}

function print(
  checkpoint: Checkpoint,
  tensors: readonly TensorInfo[],
  withTensors: boolean,
  context: CliContext,
): void {
  const { config } = checkpoint;
  const numWeights = tensors.reduce((sum, tensor) => sum + size(tensor), 0);
  const storedBytes = tensors.reduce((sum, tensor) => sum + tensor.storedBytes, 0);
  context.print(`${checkpoint.path}: ${checkpoint.kind}, ${config.architecture}`);
  context.print(
    `${(numWeights / 1e6).toFixed(1)} M weights in ${tensors.length} tensors, ${formatBytes(storedBytes)} (${((8 * storedBytes) / numWeights).toFixed(2)} bits a weight)`,
  );
  context.print(
    `${config.numLayers} layers, hidden ${config.hiddenSize}, MLP ${config.intermediateSize}, ${config.numHeads} heads on ${config.numKvHeads} of ${config.headDim}, ` +
      `vocabulary ${config.vocabSize}${config.tieWordEmbeddings ? ' (tied)' : ''}, context ${config.maxPositionEmbeddings}`,
  );
  context.print('');
  context.print(renderTable(['stored as', 'tensors', 'weights', 'size'], byFormat(tensors)));
  if (!withTensors) return;
  const rows = tensors.map((tensor) => [
    tensor.name,
    tensor.shape.join('x'),
    describeFormat(tensor),
    formatBytes(tensor.storedBytes),
  ]);
  context.print('');
  context.print(renderTable(['tensor', 'shape', 'stored as', 'size'], rows));
}

function byFormat(tensors: readonly TensorInfo[]): string[][] {
  const groups = groupBy(tensors, describeFormat);
  return [...groups].map(([format, members]) => [
    format,
    String(members.length),
    String(members.reduce((sum, tensor) => sum + size(tensor), 0)),
    formatBytes(members.reduce((sum, tensor) => sum + tensor.storedBytes, 0)),
  ]);
}

function describeFormat({ dtype, format }: TensorInfo): string {
  if (!format || format.kind === 'dense') return dtype;
  const rotation = format.hadamardBlock ? `, rotated by ${format.hadamardBlock}` : '';
  const radix = format.kind === 'nested8' ? `, radix ${format.radix}` : '';
  return `${format.kind} (group ${format.groupSize}${radix}${rotation})`;
}

function size(tensor: TensorInfo): number {
  return tensor.shape.reduce((product, length) => product * length, 1);
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}
