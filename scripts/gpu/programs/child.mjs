import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** Exit code of a program that found nothing to run on. */
export const SKIPPED = 77;

/** Runs a program with its output shown; `problem` says why it did not come to an end of its own. */
export async function runChild(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let tail = '';
  child.stdout.on('data', (chunk) => {
    process.stdout.write(chunk);
    tail = (tail + chunk).slice(-1000);
  });
  try {
    const [status, signal] = await once(child, 'close');
    return { status, tail, problem: signal ? `${command} was ended by ${signal}.` : undefined };
  } catch (error) {
    return { status: undefined, tail, problem: `Could not start ${command}: ${error.message}.`, code: error.code };
  }
}

/** The counts of a test program's last line, `N passed, N failed`; without them, or with a bad end, one more has failed. */
export function countsOf({ status, tail }) {
  const [, passed, failed] = tail.trimEnd().match(/(\d+) passed, (\d+) failed$/) ?? [0, 0, 0];
  const isConsistent = (status === 0) === (Number(failed) === 0) && Number(passed) + Number(failed) > 0;
  return { passed: Number(passed), failed: Number(failed) + (isConsistent ? 0 : 1) };
}

export function heading(text) {
  process.stdout.write(`\n── ${text}\n`);
}
