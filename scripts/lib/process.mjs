import { spawnSync } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Environment of every step: the workspace's own tools come first on PATH, nobody phones home. */
export const environment = {
  ...process.env,
  PATH: [join(root, 'node_modules', '.bin'), process.env.PATH].join(delimiter),
  TURBO_TELEMETRY_DISABLED: '1',
  DO_NOT_TRACK: '1',
  npm_config_update_notifier: 'false',
};

/** Runs a step in the repository root with its output shown; ends this process when it fails, unless `allowFailure`. */
export function run(command, args, { allowFailure = false, remedy, quiet = false } = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    env: environment,
    stdio: quiet ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    shell: process.platform === 'win32',
  });
  if (result.error && !allowFailure) fail(`Could not start \`${command}\`: ${result.error.message}.`);
  if (result.status !== 0 && !allowFailure) {
    if (quiet) process.stderr.write(result.stdout + result.stderr);
    fail(`\`${[command, ...args].join(' ')}\` failed.${remedy ? ` ${remedy}` : ''}`, result.status ?? 1);
  }
  return result;
}

export function heading(text) {
  process.stderr.write(`\n── ${text}\n`);
}

export function fail(message, status = 1) {
  process.stderr.write(`${message}\n`);
  process.exit(status || 1);
}
