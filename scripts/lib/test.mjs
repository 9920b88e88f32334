import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { heading, root, run } from './process.mjs';

const cache = join(root, '.cache');

/** All suites, then one line over all of them: `N passed, N failed`. Extra arguments go to vitest. */
export function runTests(vitestArgs) {
  mkdirSync(cache, { recursive: true });
  const suites = [staticChecks(), nativeTests(), vitestTests(vitestArgs)];
  const passed = suites.reduce((sum, suite) => sum + suite.passed, 0);
  const failed = suites.reduce((sum, suite) => sum + suite.failed, 0);
  heading('all suites');
  for (const suite of suites) process.stdout.write(`${suite.name}: ${suite.passed} passed, ${suite.failed} failed\n`);
  process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
  process.exit(failed > 0 || passed === 0 ? 1 : 0);
}

/** Lint and format, types, and what each published package looks like to its importers: one count each. */
function staticChecks() {
  heading('checks: lint, types, package exports');
  const checks = [
    ['biome', ['check', '.', '--diagnostic-level=error']],
    ['turbo', ['run', 'typecheck', '--output-logs=errors-only', '--log-prefix=task']],
    ['node', ['scripts/check-packages.mjs']],
  ];
  const failed = checks.filter(([command, args]) => run(command, args, { allowFailure: true }).status !== 0).length;
  return { name: 'checks', passed: checks.length - failed, failed };
}

/** CTest executables: no Node inside. Where nvcc is installed the CUDA kernels are compiled too; without a GPU their test is skipped. */
function nativeTests() {
  heading('native tests (CTest)');
  const built = run('node', ['packages/kernels/scripts/build-native.mjs', '--tests', '--cuda=auto'], {
    allowFailure: true,
  });
  if (built.status !== 0) return { name: 'native', passed: 0, failed: 1 };
  const report = join(cache, 'ctest.xml');
  rmSync(report, { force: true });
  run('ctest', ['--test-dir', 'packages/kernels/build', '--output-on-failure', '--output-junit', report], {
    allowFailure: true,
  });
  return { name: 'native', ...junitCounts(report) };
}

function junitCounts(report) {
  if (!existsSync(report)) return { passed: 0, failed: 1 };
  const attributes = readFileSync(report, 'utf8').match(/<testsuite[^>]*>/)?.[0] ?? '';
  const count = (name) => Number(attributes.match(new RegExp(`\\b${name}="(\\d+)"`))?.[1] ?? 0);
  const failed = count('failures') + count('errors');
  const skipped = count('skipped') + count('disabled');
  return { passed: count('tests') - failed - skipped, failed: count('tests') === 0 ? 1 : failed };
}

function vitestTests(extraArgs) {
  heading('vitest');
  const report = join(cache, 'vitest.json');
  rmSync(report, { force: true });
  const args = ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...extraArgs];
  const { status } = run('vitest', args, { allowFailure: true });
  if (!existsSync(report)) return { name: 'vitest', passed: 0, failed: 1 };
  const { numPassedTests, numFailedTests, numFailedTestSuites } = JSON.parse(readFileSync(report, 'utf8'));
  // A file that cannot be loaded, or an unhandled error, fails the run without failing a test: it counts as one.
  const hidden = numFailedTests === 0 && (status !== 0 || numFailedTestSuites > 0) ? 1 : 0;
  return { name: 'vitest', passed: numPassedTests, failed: numFailedTests + hidden };
}
