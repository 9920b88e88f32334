import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

/** Is the module at `url` the one that `node` was started with? Then the example runs; imported by its test it doesn't. */
export function isMain(url: string): boolean {
  return argv[1] !== undefined && fileURLToPath(url) === argv[1];
}

export const TALLY = fileURLToPath(new URL('../models/tally-10m', import.meta.url));
