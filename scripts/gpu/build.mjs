import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { cudaChips } from '../../packages/kernels/scripts/cuda-chips.mjs';
import { fail, heading, root, run } from '../lib/process.mjs';

const kernels = join(root, 'packages', 'kernels');
const tree = join(kernels, 'build-cuda');

/** Where a build leaves the native executables, and the addon. */
export const executablesOfBuild = join(tree, 'native', 'cuda');
export const addonOfBuild = join(kernels, 'build', 'Release', 'qspec.node');

/** The executables in a tree of their own (no Node inside), then the addon, with CUDA if it is needed. Incremental. */
export function buildAll(executables, isCudaNeeded, isFat) {
  heading('build');
  if (isCudaNeeded) {
    requireNvcc();
    const options = ['-DCMAKE_BUILD_TYPE=Release', '-DQSPEC_CUDA=ON', '-DQSPEC_BENCH=ON', '-DQSPEC_ADDON=OFF'];
    run('cmake', ['-S', kernels, '-B', tree, ...options, `-DQSPEC_CUDA_ARCHITECTURES=${cudaChips(isFat)}`]);
    const jobs = String(availableParallelism());
    run('cmake', ['--build', tree, '--parallel', jobs, '--target', ...executables]);
  }
  const options = [`--cuda=${isCudaNeeded ? 'on' : 'auto'}`, ...(isFat ? ['--fat'] : [])];
  run('node', [join(kernels, 'scripts', 'build-native.mjs'), ...options]);
}

function requireNvcc() {
  if (spawnSync('nvcc', ['--version']).status === 0) return;
  fail(
    'Expected nvcc (CUDA toolkit 12.4 or newer) to build the CUDA kernels but found none: install it, or pass --prebuilt <folder>.',
  );
}
