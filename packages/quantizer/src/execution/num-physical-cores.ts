import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

const CPU_FOLDER = '/sys/devices/system/cpu';

/** Physical cores that this process may use, at least 1. Where the system does not tell (not Linux), hardware threads count as cores. */
export function numPhysicalCores(): number {
  return Math.max(1, Math.min(availableParallelism(), countCores() ?? Number.POSITIVE_INFINITY));
}

function countCores(): number | undefined {
  try {
    const cpus = readdirSync(CPU_FOLDER).filter((name) => /^cpu\d+$/.test(name));
    const cores = cpus.map((cpu) => readFileSync(`${CPU_FOLDER}/${cpu}/topology/thread_siblings_list`, 'utf8'));
    return new Set(cores).size || undefined;
  } catch {
    return undefined;
  }
}
