// qspec on a real GPU:
//   npm run gpu:test                 native conformance, then the engine's text on tally-10m: speculative = plain, token for token
//   npm run gpu:bench                single ops, steps of real shapes, tally-10m end to end, PyTorch beside them
//   npm run gpu:pack -- <folder>     a folder that does both with a Node binary and a driver alone: node <folder>/gpu.mjs test
// Options of all three come after `--`:
//   --prebuilt <folder>   executables (and addon) built elsewhere, or a folder that gpu:pack made: no compiler needed
//   --no-build            take what the last build left
//   --fat                 compile for all chips, not only for this machine's (or, without a GPU here, Hopper)
// All others go on to the program: see scripts/gpu/programs/gpu.mjs.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { takeFlag, takeOption } from './gpu/arguments.mjs';
import { addonOfBuild, buildAll, executablesOfBuild } from './gpu/build.mjs';
import { assemble, describeFolder } from './gpu/folder.mjs';
import { installDependencies } from './lib/install.mjs';
import { fail, root, run } from './lib/process.mjs';

const BENCHES = ['bench_cuda_ops', 'bench_cuda_steps'];
const EXECUTABLES = { test: ['test_cuda_session'], bench: BENCHES, pack: ['test_cuda_session', ...BENCHES] };

const [command, ...args] = process.argv.slice(2);
await main();

async function main() {
  if (!EXECUTABLES[command]) fail(`Expected test, bench or pack but received ${command ?? 'nothing'}.`);
  const prebuilt = takeOption(args, '--prebuilt');
  const isFat = takeFlag(args, '--fat');
  const isBuilding = !takeFlag(args, '--no-build') && !prebuilt;
  if (prebuilt && !existsSync(prebuilt))
    fail(
      `Expected --prebuilt to name a folder but ${prebuilt} does not exist: npm run gpu:pack -- <folder> makes one.`,
    );
  if (command === 'pack') expectFolder();
  else if (prebuilt && existsSync(join(prebuilt, 'gpu.mjs'))) runFolder(prebuilt);

  installDependencies();
  const isCudaAsked = !/--device[= ](cpu|reference)\b/.test(args.join(' '));
  if (isBuilding) buildAll(EXECUTABLES[command], isCudaAsked, isFat);
  const executables = prebuilt ? resolve(prebuilt) : executablesOfBuild;
  const sources = { executables, required: isCudaAsked ? EXECUTABLES[command] : [], addon: addonOf(prebuilt) };
  if (command === 'pack') return pack(sources);
  const folder = join(root, '.cache', 'gpu');
  await assemble(folder, sources);
  runFolder(folder);
}

function addonOf(prebuilt) {
  const platform = `${process.platform}-${process.arch}`;
  const own = prebuilt && join(prebuilt, 'prebuilds', platform, 'qspec.node');
  return own && existsSync(own) ? own : addonOfBuild;
}

function expectFolder() {
  if (args.length === 1 && !args[0].startsWith('-')) return;
  fail(`Expected one folder to fill but received ${args.join(' ') || 'nothing'}: npm run gpu:pack -- <folder>.`);
}

async function pack(sources) {
  const folder = resolve(args[0]);
  await assemble(folder, sources);
  process.stdout.write(`${describeFolder(folder)}\nnode ${join(folder, 'gpu.mjs')} test\n`);
}

/** Never returns: ends as the program ends. */
function runFolder(folder) {
  const { status } = run('node', [resolve(folder, 'gpu.mjs'), command, ...args], { allowFailure: true });
  process.exit(status ?? 1);
}
