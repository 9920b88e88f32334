import { join } from 'node:path';
import { build } from 'tsup';
import { root } from '../lib/process.mjs';

/** Programs that run without node_modules: one file each. */
const PROGRAMS = {
  gpu: 'scripts/gpu/programs/gpu.mjs',
  'engine-exactness': 'scripts/gpu/programs/exactness/main.mjs',
  tally: 'benchmarks/e2e/tally.mjs',
};

/** Bundles the programs, with every package that they use, from sources into `folder`. The addon stays outside: it is looked for beside them. */
export async function bundlePrograms(folder) {
  await build({
    config: false,
    silent: true,
    entry: Object.fromEntries(Object.entries(PROGRAMS).map(([name, path]) => [name, join(root, path)])),
    outDir: folder,
    format: 'esm',
    outExtension: () => ({ js: '.mjs' }),
    target: 'node20',
    platform: 'node',
    splitting: false,
    dts: false,
    noExternal: [/./],
    esbuildOptions(options) {
      options.conditions = ['@qspec/source', 'import'];
      options.nodePaths = [join(root, 'apps', 'cli', 'node_modules')]; // this folder is no package: it sees what the CLI sees
    },
  });
}
