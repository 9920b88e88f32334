import { addonCandidates, loadAddon } from './binding.js';
import { NATIVE_ABI_VERSION, type NativeCudaDescription, type NativeIsa } from './native-types.js';
import { defaultNumThreads } from './physical-cores.js';

/** What `qspec doctor` shows about the native side. */
export interface NativeReport {
  readonly isLoaded: boolean;
  /** Why not, when it is not: a help page. */
  readonly problem: string | undefined;
  readonly candidates: readonly string[];
  readonly expectedAbiVersion: number;
  readonly abiVersion: number | undefined;
  readonly isa: NativeIsa | undefined;
  readonly defaultNumThreads: number;
  readonly compiler: string | undefined;
  readonly buildType: string | undefined;
  /** CUDA in this build and on this machine's first device. */
  readonly cuda: NativeCudaDescription;
}

const NO_CUDA: NativeCudaDescription = { isBuilt: false, isUsable: false, problem: 'the native addon is missing' };

/** Never throws: a missing addon is part of the report. In a build with CUDA this asks the driver, which may take a moment the first time. */
export function describeNative(): NativeReport {
  const common = {
    candidates: addonCandidates(),
    expectedAbiVersion: NATIVE_ABI_VERSION,
    defaultNumThreads: defaultNumThreads(),
  };
  try {
    const addon = loadAddon();
    const { isa, compiler, buildType, cuda } = addon.describe();
    return {
      ...common,
      ...{ isLoaded: true, problem: undefined, abiVersion: addon.abiVersion },
      ...{ isa, compiler, buildType, cuda },
    };
  } catch (error) {
    const missing = { abiVersion: undefined, isa: undefined, compiler: undefined, buildType: undefined };
    return { ...common, ...missing, isLoaded: false, problem: (error as Error).message, cuda: NO_CUDA };
  }
}
