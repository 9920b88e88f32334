// `npm run gpu:test` and `npm run gpu:bench`: the CUDA kernels on a real GPU, without Node inside.
//   -- --prebuilt <folder>   run executables that were built elsewhere; no compiler needed
//   -- --out <file.csv>      where gpu:bench writes (default cuda-steps.csv)
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { installDependencies } from './lib/install.mjs';
import { fail, root, run } from './lib/process.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { prebuilt: { type: 'string' }, out: { type: 'string', default: 'cuda-steps.csv' } },
});
const EXECUTABLES = { test: 'test_cuda_session', bench: 'bench_cuda_steps' };
const executable = EXECUTABLES[positionals[0]];
if (!executable) fail(`Expected test or bench but received ${positionals[0] ?? 'nothing'}.`);

const folder = values.prebuilt ? resolve(values.prebuilt) : build();
const path = join(folder, executable);
if (!existsSync(path)) fail(`Expected ${path} but it is not there: is --prebuilt the folder that holds ${executable}?`);
const commit =
  spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).stdout?.trim() || 'unknown';
const args = executable === EXECUTABLES.bench ? [resolve(values.out), commit] : [];
process.exit(spawnSync(path, args, { stdio: 'inherit' }).status ?? 1);

function build() {
  if (spawnSync('nvcc', ['--version']).status !== 0) {
    fail(
      'Expected nvcc (CUDA toolkit 12.4 or newer) to build the CUDA kernels but found none: install it, or pass --prebuilt <folder>.',
    );
  }
  installDependencies();
  const tree = join('packages', 'kernels', 'build-cuda');
  const options = ['-DCMAKE_BUILD_TYPE=Release', '-DQSPEC_CUDA=ON', '-DQSPEC_BENCH=ON', '-DQSPEC_ADDON=OFF'];
  run('cmake', ['-S', join('packages', 'kernels'), '-B', tree, ...options]);
  run('cmake', ['--build', tree, '--parallel', '--target', executable]);
  return join(root, tree, 'native', 'cuda');
}
