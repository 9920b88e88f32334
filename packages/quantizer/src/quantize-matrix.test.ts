import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { CheckpointError, DisposedError, RequestAbortedError } from '@qspec/core';
import { build } from 'tsup';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAX_BUSY_MS, repeatedGaps } from '../../core/testing/event-loop-gaps.js';
import { denseSource, gaussianWeights } from '../testing/random-weights.js';
import { findWorkerEntry, openExecutor } from './execution/open-executor.js';
import { createInThreadExecutor } from './execution/row-executor.js';
import { WorkerExecutor } from './execution/worker-executor.js';
import { quantizeMatrix } from './quantize-matrix.js';
import { quantizeWeight } from './quantize-weight.js';
import { resolveRecipe } from './recipe.js';

const recipe = resolveRecipe({ scheme: 'nested8', groupSize: 64 });
const format = { kind: 'nested8', groupSize: 64, hadamardBlock: 64, radix: 12 } as const;
let folder: string;
let entry: URL;

/** Workers cannot run TypeScript sources, so the tests build theirs. */
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qspec-quantizer-'));
  const source = new URL('./worker.ts', import.meta.url);
  await build({
    entry: { worker: source.pathname },
    outDir: folder,
    outExtension: () => ({ js: '.mjs' }),
    format: 'esm',
    noExternal: [/./],
    config: false,
    silent: true,
    dts: false,
    esbuildOptions: (options) => {
      options.conditions = ['@qspec/source'];
    },
  });
  entry = pathToFileURL(join(folder, 'worker.mjs'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe('quantizeMatrix', () => {
  it.each([0, 1, 3])('gives the same codes, scales and sums with %i workers as all at once', async (numWorkers) => {
    const source = denseSource('w', [301, 576]);
    const executor = openExecutor(numWorkers, entry);
    const matrix = await quantizeMatrix(source, format, recipe, executor);
    await executor.close();
    const { source: whole, error } = quantizeWeight(source, format);
    expect(matrix.hi).toEqual(whole.hi);
    expect(matrix.lo).toEqual('lo' in whole ? whole.lo : undefined);
    expect(matrix.scales).toEqual(whole.scales);
    const inThread = await quantizeMatrix(source, format, recipe, createInThreadExecutor());
    expect(matrix.sums).toEqual(inThread.sums);
    expect(error.relativeError.full).toBeCloseTo(
      Math.sqrt(matrix.sums.fullSquaredError / matrix.sums.sumOfSquares),
      12,
    );
  });

  it('reports rows as they are finished, up to all of them', async () => {
    const seen: number[] = [];
    await quantizeMatrix(denseSource('w', [500, 576]), format, recipe, createInThreadExecutor(), undefined, (rows) =>
      seen.push(rows),
    );
    expect(seen.at(-1)).toBe(500);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.length).toBeGreaterThan(3);
  });

  it.each([0, 2])('names the tensor, row and column of a weight that is not finite, %i workers', async (numWorkers) => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const values = gaussianWeights(300 * 576, 1);
      values[250 * 576 + 13] = bad;
      const executor = openExecutor(numWorkers, entry);
      const result = quantizeMatrix(denseSource('layers.7.w', [300, 576], 'f32', values), format, recipe, executor);
      const error = await result.catch((reason: unknown) => reason);
      await executor.close();
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as CheckpointError).message).toContain(
        `\`layers.7.w\` to be finite but received ${bad} in row 250, column 13`,
      );
      expect((error as CheckpointError).details).toMatchObject({ tensor: 'layers.7.w', row: 250, column: 13 });
    }
  });

  it.each([0, 2])('stops when the signal fires, %i workers', async (numWorkers) => {
    const controller = new AbortController();
    const executor = openExecutor(numWorkers, entry);
    let numRows = 0;
    const result = quantizeMatrix(denseSource('w', [800, 576]), format, recipe, executor, controller.signal, (rows) => {
      numRows = rows;
      controller.abort();
    });
    await expect(result).rejects.toThrow(RequestAbortedError);
    await executor.close();
    expect(numRows).toBeLessThan(800);
  });

  it('never takes more than 50 ms of the event loop without workers', async () => {
    const source = denseSource('w', [1024, 1024]);
    const { busyMs } = await repeatedGaps(() => quantizeMatrix(source, format, recipe, createInThreadExecutor()));
    expect(busyMs).toBeGreaterThan(0);
    expect(busyMs).toBeLessThan(MAX_BUSY_MS);
  });
});

describe('WorkerExecutor', () => {
  it('rejects what is waiting when it is closed', async () => {
    const executor = new WorkerExecutor(entry, 1);
    const result = quantizeMatrix(denseSource('w', [600, 576]), format, recipe, executor);
    const check = expect(result).rejects.toThrow(DisposedError);
    await executor.close();
    await check;
  });

  it('rejects when its script cannot be loaded', async () => {
    const executor = new WorkerExecutor(new URL('./nowhere.mjs', entry), 2);
    await expect(quantizeMatrix(denseSource('w', [8, 64]), format, recipe, executor)).rejects.toThrow('nowhere.mjs');
    await executor.close();
  });
});

describe('openExecutor', () => {
  it('works in the calling thread where no worker was built', () => {
    expect(findWorkerEntry()).toBeUndefined();
    expect(openExecutor(4, undefined).concurrency).toBe(1);
  });
});
