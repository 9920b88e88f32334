import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError } from '@qspec/core';
import { errorCode } from '../byte-file.js';
import { MANIFEST_FILE } from './manifest.js';

/**
 * May an artifact appear at `path`? Nothing there, or an empty folder: yes. An artifact: with `overwrite`. Anything else: never.
 * @returns whether something is there that must be moved aside
 */
export async function expectWritableTarget(path: string, overwrite: boolean): Promise<boolean> {
  const stats = await stat(path).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (!stats) return false;
  if (!stats.isDirectory()) throw refused(path, 'a file is there', 'Choose another path.');
  if ((await readdir(path)).length === 0) return true;
  if (!existsSync(join(path, MANIFEST_FILE))) {
    throw refused(path, 'a folder that is not an artifact is there', 'Choose another path; it is never overwritten.');
  }
  if (overwrite) return true;
  throw refused(path, 'an artifact is there', 'Choose another path or pass `overwrite: true`.');
}

function refused(path: string, what: string, remedy: string): ConfigError {
  return new ConfigError(`Expected \`path\` to be free but ${what}: \`${path}\`. ${remedy}`, { option: 'path', path });
}
