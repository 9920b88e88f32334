import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { heading, runChild, SKIPPED } from './child.mjs';

/** Of `bench_cuda_steps`, which appends rows and writes no header. */
const STEP_COLUMNS = 'device,commit,shape,target,draft,batch,context,rows,what,ms,limit_ms,share\n';

/** All benchmarks that were asked for, each with a CSV file of its own: x.csv, x.tally.csv, x.pytorch.csv. @returns the exit code. */
export async function runBenchmarks(folder, options) {
  const benchmarks = { native: benchSteps, tally: benchTally, pytorch: benchPytorch };
  mkdirSync(dirname(options.out), { recursive: true });
  let exitCode = 0;
  for (const [name, bench] of Object.entries(benchmarks)) {
    if (!options.only.includes(name) || (options.device !== 'cuda' && name !== 'tally')) continue;
    const { status, problem } = await bench(folder, options);
    if (problem) process.stdout.write(`${problem}\n`);
    if (name !== 'pytorch' && status === SKIPPED) return SKIPPED;
    if (status !== 0 && status !== SKIPPED) exitCode = 1;
  }
  return exitCode;
}

async function benchSteps(folder, { out, commit, shape, filter }) {
  heading(`steps of real shapes → ${out}`);
  const isNew = !existsSync(out);
  if (isNew) writeFileSync(out, STEP_COLUMNS);
  const result = await runChild(join(folder, 'bench_cuda_steps'), [out, commit, shape, ...(filter ? [filter] : [])]);
  if (isNew && result.status === SKIPPED) rmSync(out);
  return result;
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
