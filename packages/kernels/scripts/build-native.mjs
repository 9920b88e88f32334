// Builds build/Release/qspec.node (Release, incremental), and with --tests the CTest executables in the same tree.
// Downloads nothing: the headers come from the npm packages node-api-headers and node-addon-api.
//   node scripts/build-native.mjs [--tests] [--bench] [--cuda=off|auto|on] [--fat] [--verbose]
// CUDA is part of the addon wherever nvcc is found (--cuda=auto, the default); `on` fails without it, `off` does not look.
// It is compiled for this machine's GPUs (Hopper, where there are none), with --fat for all chips.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cudaChips } from './cuda-chips.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(root, 'build');
const require = createRequire(import.meta.url);
const flags = process.argv.slice(2);
const KNOWN = ['--tests', '--bench', '--fat', '--verbose', '--cuda=auto', '--cuda=on', '--cuda=off'];

main();

function main() {
  const unknown = flags.find((flag) => !KNOWN.includes(flag));
  if (unknown) fail(`Expected ${KNOWN.join(', ')} but received ${unknown}.`);
  requireTools();
  dropForeignCache();
  configure();
  cmake(['--build', build, '--config', 'Release', '--parallel', String(availableParallelism())]);
  if (flags.includes('--tests')) {
    for (const target of ['qspec_tests', ...(hasCuda() ? ['test_cuda_session'] : [])]) {
      cmake([
        '--build',
        build,
        '--config',
        'Release',
        '--parallel',
        String(availableParallelism()),
        '--target',
        target,
      ]);
    }
  }
  const addon = join(build, 'Release', 'qspec.node');
  if (!existsSync(addon)) fail(`Expected the build to leave ${addon} but it did not: run again with --verbose.`);
}

function requireTools() {
  const version = spawnSync('cmake', ['--version'], { encoding: 'utf8' }).stdout?.match(/(\d+)\.(\d+)/);
  if (!version || Number(version[1]) < 3 || (Number(version[1]) === 3 && Number(version[2]) < 20)) {
    const found = version ? `found ${version[0]}` : 'found none';
    fail(
      `qspec needs CMake 3.20 or newer to build its native kernels but ${found}: install it (Debian/Ubuntu: \`apt install cmake\`, macOS: \`brew install cmake\`).`,
    );
  }
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean);
  if (process.platform !== 'win32' && !compilers.some(compilesCpp17)) {
    fail(
      'qspec needs a C++17 compiler to build its native kernels but found none: install one (Debian/Ubuntu: `apt install g++`, macOS: `xcode-select --install`) or set CXX.',
    );
  }
}

function compilesCpp17(command) {
  const input = '#include <optional>\nint main() { return std::optional<int>(0).value(); }\n';
  return spawnSync(command, ['-std=c++17', '-fsyntax-only', '-x', 'c++', '-'], { input }).status === 0;
}

/** A build tree that was configured elsewhere (moved or copied checkout) cannot be reused. */
function dropForeignCache() {
  const cache = join(build, 'CMakeCache.txt');
  if (!existsSync(cache)) return;
  const home = readFileSync(cache, 'utf8').match(/^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m)?.[1];
  if (home !== root.replaceAll('\\', '/')) rmSync(build, { recursive: true, force: true });
}

function configure() {
  const nodeApi = dirname(require.resolve('node-api-headers/include/node_api.h'));
  const addonApi = dirname(require.resolve('node-addon-api/package.json'));
  const cuda = flags.find((flag) => flag.startsWith('--cuda='))?.slice('--cuda='.length) ?? 'auto';
  cmake([
    ...['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release'],
    `-DQSPEC_NODE_INCLUDE=${nodeApi};${addonApi}`,
    `-DQSPEC_CUDA=${cuda.toUpperCase()}`,
    `-DQSPEC_CUDA_ARCHITECTURES=${cudaChips(flags.includes('--fat'))}`,
    `-DQSPEC_BENCH=${flags.includes('--bench') ? 'ON' : 'OFF'}`,
  ]);
}

/** Did the configuration find a CUDA toolkit? */
function hasCuda() {
  return /^QSPEC_CUDA_FOUND:INTERNAL=ON$/m.test(readFileSync(join(build, 'CMakeCache.txt'), 'utf8'));
}

/** Quiet when all is well, everything when it is not. */
function cmake(args) {
  const isVerbose = flags.includes('--verbose');
  const result = spawnSync('cmake', isVerbose && args[0] === '--build' ? [...args, '--verbose'] : args, {
    cwd: root,
    encoding: 'utf8',
    stdio: isVerbose ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    maxBuffer: 1 << 28,
  });
  if (result.error) fail(`Could not start cmake: ${result.error.message}.`);
  if (result.status === 0) return;
  process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
  fail('Building the native kernels failed; the first error above says where.');
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
