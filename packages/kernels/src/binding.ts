import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KernelLoadError } from '@qspec/core';
import { NATIVE_ABI_VERSION, type NativeAddon } from './native-types.js';

/** The folder of this code: the package's `src` or `dist`, or wherever a bundler put it. */
const codeFolder = dirname(fileURLToPath(import.meta.url));
/** This package's folder, unless the code was bundled. */
const packageRoot = dirname(codeFolder);

/** Where the addon may be, most wanted first: what was built here, what came with the package, what was put beside a bundle. */
export function addonCandidates(folder: string = codeFolder): readonly string[] {
  const prebuilt = join('prebuilds', `${process.platform}-${process.arch}`, 'qspec.node');
  const root = dirname(folder);
  return [join(root, 'build', 'Release', 'qspec.node'), join(root, prebuilt), join(folder, prebuilt)];
}

let loaded: NativeAddon | undefined;

/** The addon of this package, loaded once a thread. @throws KernelLoadError that says what was tried and how to build it. */
export function loadAddon(): NativeAddon {
  loaded ??= loadAddonFrom(addonCandidates());
  return loaded;
}

/** @throws KernelLoadError */
export function loadAddonFrom(candidates: readonly string[]): NativeAddon {
  const require = createRequire(import.meta.url);
  const tried: string[] = [];
  for (const path of candidates) {
    if (!existsSync(path)) {
      tried.push(`${path}: no such file`);
      continue;
    }
    try {
      const addon = require(path) as NativeAddon;
      if (addon.abiVersion === NATIVE_ABI_VERSION) return addon;
      tried.push(
        `${path}: was built for ABI ${addon.abiVersion}, this package needs ${NATIVE_ABI_VERSION} (rebuild it)`,
      );
    } catch (error) {
      tried.push(`${path}: ${(error as Error).message}`);
    }
  }
  throw new KernelLoadError(helpPage(tried), { tried });
}

function helpPage(tried: readonly string[]): string {
  return [
    `Expected the native addon of @qspec/kernels for ${process.platform}-${process.arch} but none could be loaded.`,
    'Tried:',
    ...tried.map((line) => `  - ${line}`),
    'To build it (needs CMake 3.20 or newer and a C++17 compiler):',
    `  cd ${packageRoot} && npm run build:native`,
  ].join('\n');
}
