import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fail, root } from '../lib/process.mjs';

const EXECUTABLE = /^(test|bench)_\w+(\.exe)?$/;

/**
 * Fills `folder` with everything that `node <folder>/gpu.mjs` needs besides Node and a driver:
 * programs of one file each, native executables, the addon, the small model and the PyTorch baseline. Other files in it stay.
 * @param sources `executables`: the folder that holds them, `required`: those that must be there; `addon`: the file.
 */
export async function assemble(folder, { executables, required, addon }) {
  for (const path of [addon, ...required.map((name) => join(executables, name))]) expectThere(path);
  if (folder === executables) fail(`Expected a folder other than --prebuilt but received ${folder} for both.`);
  mkdirSync(folder, { recursive: true });
  for (const name of executablesIn(folder)) rmSync(join(folder, name));
  for (const name of executablesIn(executables)) cpSync(join(executables, name), join(folder, name));
  cpSync(addon, join(folder, 'prebuilds', `${process.platform}-${process.arch}`, 'qspec.node'));
  cpSync(join(root, 'models', 'tally-10m'), join(folder, 'models', 'tally-10m'), { recursive: true });
  cpSync(join(root, 'benchmarks', 'e2e', 'pytorch_baseline.py'), join(folder, 'pytorch_baseline.py'));
  writeFileSync(join(folder, 'pack.json'), `${JSON.stringify({ commit: currentCommit() })}\n`);
  const { bundlePrograms } = await import('./bundle.mjs');
  await bundlePrograms(folder);
}

function expectThere(path) {
  if (!existsSync(path))
    fail(`Expected ${path} but it is not there: leave --no-build out, or name another --prebuilt.`);
}

function executablesIn(folder) {
  return existsSync(folder) ? readdirSync(folder).filter((name) => EXECUTABLE.test(name)) : [];
}

/** `c7e0e59`, or `c7e0e59-dirty` where files differ from it. */
function currentCommit() {
  const args = ['describe', '--always', '--dirty', '--exclude', '*'];
  return spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout?.trim() || 'unknown';
}

/** `<folder>: 34.1 MB`, and its parts. */
export function describeFolder(folder) {
  const sizes = readdirSync(folder).map((name) => [name, sizeOf(join(folder, name))]);
  const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
  const line = (name, bytes) => `${(bytes / 1e6).toFixed(1).padStart(6)} MB  ${name}`;
  return [...sizes.map(([name, bytes]) => line(name, bytes)), line(folder, total)].join('\n');
}

function sizeOf(path) {
  if (!statSync(path).isDirectory()) return statSync(path).size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}
