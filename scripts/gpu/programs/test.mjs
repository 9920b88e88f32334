import { join } from 'node:path';
import { countsOf, heading, runChild, SKIPPED } from './child.mjs';

/** Both suites, a line a check, then `N passed, N failed` over all. @returns the exit code. */
export async function runTests(folder, { device, only, problems, filter }) {
  const suites = [];
  if (device === 'cuda' && only.includes('native')) {
    heading('native conformance');
    const native = await runSuite(join(folder, 'test_cuda_session'), []);
    if (native.status === SKIPPED) return SKIPPED;
    suites.push(native);
  }
  if (only.includes('engine')) {
    heading(`the engine’s text, ${device}`);
    const args = ['--device', device, '--model', join(folder, 'models', 'tally-10m'), '--filter', filter];
    if (problems) args.push('--problems', problems);
    const engine = await runSuite(process.execPath, [join(folder, 'engine-exactness.mjs'), ...args]);
    if (engine.status === SKIPPED) return SKIPPED;
    suites.push(engine);
  }
  const sum = (key) => suites.reduce((total, suite) => total + suite[key], 0);
  process.stdout.write(`\n${sum('passed')} passed, ${sum('failed')} failed\n`);
  return sum('failed') > 0 || sum('passed') === 0 ? 1 : 0;
}

async function runSuite(command, args) {
  const result = await runChild(command, args);
  if (result.problem) process.stdout.write(`FAILED ${result.problem}\n`);
  return { ...countsOf(result), status: result.status };
}
