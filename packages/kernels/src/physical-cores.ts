import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';

/**
 * Threads that arithmetic should use: the physical cores that this process may run on. A second hyper-thread on a core
 * shares its multipliers and bandwidth and only adds barriers.
 */
export function defaultNumThreads(): number {
  const allowed = Math.min(availableParallelism(), cgroupCpuLimit(readText) ?? Number.POSITIVE_INFINITY);
  const threadsPerCore = physicalThreadsPerCore(readText, listCpus);
  return Math.max(1, Math.min(Math.floor(allowed), Math.ceil(availableParallelism() / threadsPerCore)));
}

type ReadText = (path: string) => string | undefined;

/** Logical processors a physical core, from Linux's topology files; 1 where it cannot be told (or on Apple silicon, where it is 1). */
export function physicalThreadsPerCore(read: ReadText, list: () => readonly string[]): number {
  const siblings = new Set<string>();
  let numCpus = 0;
  for (const cpu of list()) {
    const text = read(`/sys/devices/system/cpu/${cpu}/topology/thread_siblings_list`);
    if (!text) continue;
    numCpus++;
    siblings.add(text.trim());
  }
  if (numCpus > 0) return numCpus / siblings.size;
  const isIntelMac = process.platform === 'darwin' && process.arch === 'x64';
  return isIntelMac && cpus().length > 1 ? 2 : 1;
}

/** Processors that the control group's quota amounts to (cgroup v2, then v1); undefined when there is none. */
export function cgroupCpuLimit(read: ReadText): number | undefined {
  const [quotaV2, periodV2] = (read('/sys/fs/cgroup/cpu.max') ?? 'max').trim().split(/\s+/);
  const quota = quotaV2 === 'max' ? read('/sys/fs/cgroup/cpu/cpu.cfs_quota_us') : quotaV2;
  const period = quotaV2 === 'max' ? read('/sys/fs/cgroup/cpu/cpu.cfs_period_us') : periodV2;
  const limit = Number(quota) / Number(period);
  return Number.isFinite(limit) && limit > 0 ? Math.max(1, limit) : undefined;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function listCpus(): readonly string[] {
  try {
    return readdirSync('/sys/devices/system/cpu').filter((name) => /^cpu\d+$/.test(name));
  } catch {
    return [];
  }
}
