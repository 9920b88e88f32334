import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { environment, heading, root, run } from './process.mjs';

const stampPath = join(root, 'node_modules', '.qspec-installed');

/** Installs the workspace with the pinned pnpm, which need not be on the machine; skipped when nothing changed. */
export function installDependencies() {
  const stamp = manifestHash();
  if (existsSync(stampPath) && readFileSync(stampPath, 'utf8') === stamp) return;
  heading('install');
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const args = ['install', '--frozen-lockfile', '--prefer-offline', '--reporter=append-only'];
  const remedy = 'If package.json files changed, run `npx pnpm install` once to bring pnpm-lock.yaml up to date.';
  environment.CI = environment.CI ?? 'true'; // pnpm must never ask a question here
  run('npm', ['exec', '--yes', '--', packageManager, ...args], { remedy });
  writeFileSync(stampPath, stamp);
}

/** Hash of everything that decides what is installed. */
function manifestHash() {
  const hash = createHash('sha256');
  const manifests = ['package.json', 'pnpm-lock.yaml', 'pnpm-workspace.yaml'];
  for (const group of ['packages', 'apps']) {
    for (const name of readdirSync(join(root, group)).sort()) manifests.push(join(group, name, 'package.json'));
  }
  for (const manifest of manifests) {
    const path = join(root, manifest);
    if (existsSync(path)) hash.update(manifest).update(readFileSync(path));
  }
  return hash.digest('hex');
}
