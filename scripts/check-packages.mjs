// What an importer sees of each package: publint and "are the types wrong" are clean, and both module systems load the built files.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { environment, fail, root } from './lib/process.mjs';

const packages = readdirSync(join(root, 'packages')).map((name) => join(root, 'packages', name));
const scratch = mkdtempSync(join(tmpdir(), 'qspec-pack-'));
const problems = [];

for (const folder of packages) {
  const { name } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  attempt(name, () => step('publint', ['--strict', folder], folder));
  attempt(name, () => {
    const packed = JSON.parse(step('pnpm', ['pack', '--json', '--pack-destination', scratch], folder));
    step('attw', [packed.filename, '--no-color', '--profile', 'node16'], folder);
  });
  attempt(name, () => step('node', ['--input-type=module', '-e', `await import('${name}')`], folder));
  attempt(name, () => step('node', ['--input-type=commonjs', '-e', `require('${name}')`], folder));
}
rmSync(scratch, { recursive: true, force: true });
if (problems.length) fail(problems.join('\n'));
process.stdout.write(`${packages.length} packages: exports, types, import and require are fine\n`);

function step(command, args, cwd) {
  return execFileSync(command, args, { cwd, env: environment, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function attempt(name, check) {
  try {
    check();
  } catch (error) {
    problems.push(`${name}: ${error.message}\n${error.stdout ?? ''}${error.stderr ?? ''}`);
  }
}
