import { spawnSync } from 'node:child_process';
import { fail } from './process.mjs';

const MIN_NODE = [20, 19];

/** Ends with one sentence and the remedy when Node is too old, or CMake or a C++ compiler is missing. */
export function requireTools() {
  const missing = missingTool(process.versions.node, works);
  if (missing) fail(missing);
}

/** The sentence for the first missing tool, or undefined. `has(command)` says whether a command runs. */
export function missingTool(nodeVersion, has) {
  const [major, minor] = nodeVersion.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    return `qspec needs Node ${MIN_NODE.join('.')} or newer but this is ${nodeVersion}: install a current release from https://nodejs.org.`;
  }
  if (!has('cmake')) {
    return 'qspec needs CMake 3.20 or newer to build its native kernels but `cmake` was not found: install it (Debian/Ubuntu: `apt install cmake`, macOS: `brew install cmake`).';
  }
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean);
  if (process.platform !== 'win32' && !compilers.some(has)) {
    return 'qspec needs a C++17 compiler to build its native kernels but found none: install one (Debian/Ubuntu: `apt install g++`, macOS: `xcode-select --install`) or set CXX.';
  }
  return undefined;
}

function works(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}
