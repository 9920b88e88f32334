import { readFileSync } from 'node:fs';

/** Longest stretch that this project's code may keep the event loop's thread computing. */
export const MAX_BUSY_MS = 50;

/** Longest pause by the clock. Looser: on a shared machine other processes take the core for longer than we ever do. */
export const MAX_PAUSE_MS = 300;

/** What lay between two ticks of a timer at most, in milliseconds. */
export interface Gaps {
  /** The thread computed. */
  readonly busyMs: number;
  /** The clock went on. */
  readonly pauseMs: number;
}

const MAX_RUNS = 3;

/**
 * Milliseconds that this thread has computed. Wall-clock gaps would count other processes too, which on a busy machine are longer than
 * anything measured here; where the system does not tell, the clock has to do.
 */
export function threadMs(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  } catch {
    return performance.now();
  }
}

/** The longest gaps between two ticks of a timer while `work` runs once. */
export async function longestGaps(work: () => Promise<unknown>): Promise<Gaps> {
  const longest = { busyMs: 0, pauseMs: 0 };
  let last = { busy: threadMs(), clock: performance.now() };
  const tick = () => {
    const now = { busy: threadMs(), clock: performance.now() };
    longest.busyMs = Math.max(longest.busyMs, now.busy - last.busy);
    longest.pauseMs = Math.max(longest.pauseMs, now.clock - last.clock);
    last = now;
  };
  const timer = setInterval(tick, 1);
  try {
    await work();
  } finally {
    tick();
    clearInterval(timer);
  }
  return longest;
}

/**
 * The longest gaps that `work` has in every run: the first within the limits, or the least of three. A stretch of our own comes
 * each time; one that the machine adds (a virtual machine counts what its host takes away as computing) doesn't. Nor does what
 * a first run takes longer because its code isn't compiled yet.
 */
export async function repeatedGaps(work: () => Promise<unknown>): Promise<Gaps> {
  let least: Gaps = { busyMs: Number.POSITIVE_INFINITY, pauseMs: Number.POSITIVE_INFINITY };
  for (let run = 0; run < MAX_RUNS && !isShort(least); run++) {
    const { busyMs, pauseMs } = await longestGaps(work);
    least = { busyMs: Math.min(least.busyMs, busyMs), pauseMs: Math.min(least.pauseMs, pauseMs) };
  }
  return least;
}

function isShort({ busyMs, pauseMs }: Gaps): boolean {
  return busyMs <= MAX_BUSY_MS && pauseMs <= MAX_PAUSE_MS;
}
