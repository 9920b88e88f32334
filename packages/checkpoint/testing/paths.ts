import { fileURLToPath } from 'node:url';

/** A file or folder under `testing/vectors`. */
export function vectorPath(...parts: string[]): string {
  return fileURLToPath(new URL(['vectors', ...parts].join('/'), import.meta.url));
}
