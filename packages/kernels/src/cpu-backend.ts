import { cpus } from 'node:os';
import { ConfigError, DeviceError, expectInteger } from '@qspec/core';
import { loadAddon } from './binding.js';
import { NativeBackend, type NativeKernelBackend } from './native-backend.js';
import { guard } from './native-errors.js';
import { CPU_ISAS, type NativeIsa } from './native-types.js';
import { defaultNumThreads } from './physical-cores.js';

export type CpuIsa = NativeIsa;

export interface CpuBackendOptions {
  /** Threads that share each op, the calling one included. Default: physical cores that this process may use. */
  readonly numThreads?: number;
  /** Kernels to use. Default: the best that this processor runs. */
  readonly isa?: CpuIsa;
}

const MAX_THREADS = 1024;

/**
 * The fast CPU backend.
 * @throws KernelLoadError when the addon is missing; ConfigError for bad options; DeviceError when the processor lacks `isa`.
 */
export function createCpuBackend(options: CpuBackendOptions = {}): NativeKernelBackend {
  return createNative('cpu', options);
}

/** The scalar backend in double precision: slow, easy to believe. For tests. Every thread count gives the same numbers. */
export function createReferenceBackend(options: Pick<CpuBackendOptions, 'numThreads'> = {}): NativeKernelBackend {
  return createNative('reference', options);
}

/** Instruction sets that {@link createCpuBackend} accepts on this machine, slowest first. @throws KernelLoadError */
export function availableCpuIsas(): readonly CpuIsa[] {
  return CPU_ISAS.slice(0, CPU_ISAS.indexOf(loadAddon().describe().isa) + 1);
}

function createNative(kind: 'cpu' | 'reference', options: CpuBackendOptions): NativeKernelBackend {
  const addon = loadAddon();
  const detected = addon.describe().isa;
  const isa = options.isa ?? detected;
  const numThreads = options.numThreads ?? defaultNumThreads();
  expectInteger('numThreads', numThreads, 1, MAX_THREADS);
  if (!CPU_ISAS.includes(isa)) {
    throw new ConfigError(`Expected \`isa\` to be one of ${CPU_ISAS.join(', ')} but received ${String(isa)}.`, {
      option: 'isa',
      received: isa,
    });
  }
  if (CPU_ISAS.indexOf(isa) > CPU_ISAS.indexOf(detected)) {
    throw new DeviceError(`Expected a processor with ${isa} but this one has ${detected} at best: leave \`isa\` out.`, {
      isa,
      detected,
    });
  }
  const handle = guard(() => addon.createBackend({ kind, isa, numThreads }));
  const device = handle.describe();
  const processor = cpus()[0]?.model.trim() ?? process.arch;
  return new NativeBackend(kind, handle, { ...device, description: `${processor} (${device.description})` });
}
