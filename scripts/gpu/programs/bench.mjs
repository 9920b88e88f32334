import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { heading, runChild, SKIPPED } from './child.mjs';

const BENCHMARKS = { ops: benchOps, native: benchSteps, tally: benchTally, pytorch: benchPytorch };

/** Names of the benchmarks to run, in order: without a GPU there is only one. */
export function benchmarksOf({ only, device }) {
  return Object.keys(BENCHMARKS).filter((name) => only.includes(name) && (device === 'cuda' || name === 'tally'));
}

/** All benchmarks that were asked for, each with a CSV file of its own: x.csv, x.ops.csv, x.tally.csv, x.pytorch.csv. @returns the exit code. */
export async function runBenchmarks(folder, options) {
  mkdirSync(dirname(options.out), { recursive: true });
  let exitCode = 0;
  for (const name of benchmarksOf(options)) {
    const { status, problem } = await BENCHMARKS[name](folder, options);
    if (problem) process.stdout.write(`${problem}\n`);
    if (name !== 'pytorch' && status === SKIPPED) return SKIPPED;
    if (status !== 0 && status !== SKIPPED) exitCode = 1;
  }
  return exitCode;
}

function benchOps(folder, options) {
  const csv = beside(options.out, 'ops');
  heading(`single ops → ${csv}`);
  return runNative(join(folder, 'bench_cuda_ops'), csv, options);
}

function benchSteps(folder, options) {
  heading(`steps of real shapes → ${options.out}`);
  return runNative(join(folder, 'bench_cuda_steps'), options.out, options);
}

/** Native programs append rows, under a header where the file is new. */
function runNative(program, csv, { commit, shape, filter }) {
  return runChild(program, [csv, commit, shape, ...(filter ? [filter] : [])]);
}

function benchTally(folder, { out, commit, device, runs }) {
  const csv = beside(out, 'tally');
  heading(`tally-10m end to end → ${csv}`);
  const args = ['--device', device, '--model', join(folder, 'models', 'tally-10m'), '--out', csv];
  return runChild(process.execPath, [join(folder, 'tally.mjs'), ...args, '--commit', commit, '--runs', runs]);
}

async function benchPytorch(folder, { out, commit, shape, int4, compile }) {
  const csv = beside(out, 'pytorch');
  heading(`PyTorch → ${csv}`);
  const rows = [...(int4 ? ['--int4'] : []), ...(compile ? ['--compile'] : [])];
  const args = ['--shape', shape, '--out', csv, '--commit', commit, ...rows];
  const result = await runChild('python3', [join(folder, 'pytorch_baseline.py'), ...args]);
  return result.code === 'ENOENT' ? { status: SKIPPED, problem: 'Skipped: python3 was not found.' } : result;
}

/** `x.csv` → `x.tally.csv`. */
function beside(path, name) {
  return `${path.replace(/\.csv$/, '')}.${name}.csv`;
}
