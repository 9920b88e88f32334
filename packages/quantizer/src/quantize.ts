import { resolve } from 'node:path';
import { type ArtifactSummary, type ArtifactWriter, type Checkpoint, createArtifactWriter } from '@qspec/checkpoint';
import { ConfigError, expectInteger, InvariantError } from '@qspec/core';
import type { QuantizeEvent } from './events.js';
import { openExecutor } from './execution/open-executor.js';
import type { RowExecutor } from './execution/row-executor.js';
import { keepDense } from './keep-dense.js';
import { type PlannedTensor, planTensors } from './plan.js';
import { quantizeMatrix, throwIfAborted } from './quantize-matrix.js';
import { type Recipe, type ResolvedRecipe, resolveRecipe } from './recipe.js';
import { type LayerReport, type QuantizationReport, ReportBuilder } from './report.js';

export interface QuantizeOptions {
  /** Floating-point weights: a Hugging Face folder or a GGUF file. Stays open; the caller closes it. */
  readonly checkpoint: Checkpoint;
  readonly recipe?: Recipe;
  /** Folder of the artifact. */
  readonly outputPath: string;
  /** Replace what is at `outputPath`, once the new artifact is complete. Default false. */
  readonly overwrite?: boolean;
  /** Threads for the arithmetic; 0 = none, in slices of the calling thread. Default: one a physical core. The result does not depend on it. */
  readonly numWorkers?: number;
  readonly onProgress?: (event: QuantizeEvent) => void;
  readonly signal?: AbortSignal;
}

export interface QuantizeResult {
  readonly report: QuantizationReport;
  readonly artifact: ArtifactSummary;
}

/**
 * Reads a checkpoint tensor by tensor, quantises it by the recipe and writes an artifact. Holds about one tensor in memory and never blocks the event loop.
 * The artifact appears whole at the end; on any error nothing is left behind and nothing that was there is changed.
 *
 * @throws ConfigError (recipe, or a size that does not fit a matrix: before anything is read or written), CheckpointError (a damaged checkpoint, weights that
 *   are not finite, disk errors), UnsupportedFormatError (weights that are quantised already), RequestAbortedError.
 */
export async function quantize(options: QuantizeOptions): Promise<QuantizeResult> {
  const { checkpoint, outputPath, signal } = options;
  const recipe = resolveRecipe(options.recipe);
  if (options.numWorkers !== undefined) expectInteger('numWorkers', options.numWorkers, 0, 1024);
  expectOtherPath(checkpoint, outputPath);
  throwIfAborted(signal);
  const plan = planTensors(checkpoint, recipe);
  const writer = await createArtifactWriter(outputPath, {
    config: checkpoint.rawConfig,
    recipe,
    ...(options.overwrite !== undefined && { overwrite: options.overwrite }),
  });
  const executor = openExecutor(options.numWorkers);
  try {
    const report = await new Run(options, recipe, plan, writer, executor).tensors();
    for (const file of Object.values(checkpoint.tokenizerFiles())) if (file) await writer.copyFile(file);
    writer.setReport(report);
    throwIfAborted(signal);
    options.onProgress?.({ type: 'commit' });
    return { report, artifact: await writer.commit() };
  } catch (error) {
    writer.abort();
    throw error;
  } finally {
    await executor.close();
  }
}

/** One call of {@link quantize}: what its steps share. */
class Run {
  private readonly reports = new ReportBuilder();
  private readonly numWeights: number;
  private numWeightsDone = 0;

  constructor(
    private readonly options: QuantizeOptions,
    private readonly recipe: ResolvedRecipe,
    private readonly plan: readonly PlannedTensor[],
    private readonly writer: ArtifactWriter,
    private readonly executor: RowExecutor,
  ) {
    this.numWeights = plan.reduce((sum, tensor) => sum + tensor.numWeights, 0);
  }

  async tensors(): Promise<QuantizationReport> {
    this.emit({ type: 'start', numTensors: this.plan.length, numWeights: this.numWeights });
    for (const [tensorIndex, tensor] of this.plan.entries()) {
      throwIfAborted(this.options.signal);
      const { name, shape, format } = tensor;
      this.emit({ type: 'tensor-start', name, tensorIndex, shape, ...(format && { format }) });
      const report = await this.tensor(tensor);
      this.numWeightsDone += tensor.numWeights;
      this.emit({ type: 'tensor-end', name, tensorIndex, ...(report && { report }) });
    }
    return this.reports.build();
  }

  private async tensor(tensor: PlannedTensor): Promise<LayerReport | undefined> {
    const { name, format } = tensor;
    if (!format) {
      await keepDense(this.options.checkpoint, this.writer, tensor);
      this.reports.addKept(tensor.numWeights);
      this.emitProgress(name, tensor.numWeights);
      return undefined;
    }
    const source = await this.options.checkpoint.weightSource(name);
    if (!('data' in source)) throw new InvariantError(`\`${name}\` was planned as a dense matrix.`);
    const { hi, lo, scales, sums } = await quantizeMatrix(
      source,
      format,
      this.recipe,
      this.executor,
      this.options.signal,
      (numRows) => this.emitProgress(name, numRows * source.shape[1]),
    );
    const { shape } = source;
    if (format.kind === 'int4') await this.writer.addInt4({ name, shape, format, hi, scales });
    else if (lo) await this.writer.addNested8({ name, shape, format, hi, lo, scales });
    return this.reports.addLayer(name, shape, format, sums);
  }

  private emitProgress(name: string, numWeightsOfTensor: number): void {
    this.emit({
      type: 'progress',
      name,
      numWeightsDone: this.numWeightsDone + numWeightsOfTensor,
      numWeights: this.numWeights,
    });
  }

  private emit(event: QuantizeEvent): void {
    this.options.onProgress?.(event);
  }
}

function expectOtherPath(checkpoint: Checkpoint, outputPath: string): void {
  if (typeof outputPath !== 'string' || outputPath === '') {
    throw new ConfigError(`Expected \`outputPath\` to be a folder but received ${String(outputPath)}.`, {
      option: 'outputPath',
    });
  }
  if (resolve(outputPath) !== resolve(checkpoint.path)) return;
  throw new ConfigError(
    `Expected \`outputPath\` to be another folder than the checkpoint's but received ${outputPath}. The original is never replaced.`,
    { option: 'outputPath', received: outputPath },
  );
}
