import { addonCandidates, loadAddon } from './binding.js';
import { NATIVE_ABI_VERSION, type NativeIsa } from './native-types.js';
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
  readonly isCudaBuilt: boolean;
}

/** Never throws: a missing addon is part of the report. */
export function describeNative(): NativeReport {
  const common = {
    candidates: addonCandidates(),
    expectedAbiVersion: NATIVE_ABI_VERSION,
    defaultNumThreads: defaultNumThreads(),
  };
  try {
    const addon = loadAddon();
    const description = addon.describe();
    return { ...common, isLoaded: true, problem: undefined, abiVersion: addon.abiVersion, ...description };
  } catch (error) {
    const missing = { abiVersion: undefined, isa: undefined, compiler: undefined, buildType: undefined };
    return { ...common, ...missing, isLoaded: false, problem: (error as Error).message, isCudaBuilt: false };
  }
}
