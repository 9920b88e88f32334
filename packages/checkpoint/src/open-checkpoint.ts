import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { CheckpointError, UnsupportedFormatError } from '@qspec/core';
import { MANIFEST_FILE } from './artifact/manifest.js';
import { openArtifact } from './artifact/open-artifact.js';
import type { Checkpoint } from './checkpoint.js';
import { openGguf } from './formats/gguf.js';
import { openHuggingFace } from './formats/hugging-face.js';
import { INDEX_FILE, SINGLE_FILE } from './shard-index.js';

/**
 * Opens a Hugging Face folder, a `.gguf` file, a folder with exactly one `.gguf` file, or one of our artifacts. Headers are checked,
 * no tensor is read. Whoever opens closes (`await using`).
 * @throws CheckpointError when it is missing, incomplete or damaged; UnsupportedFormatError when it is of a kind we do not read.
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const absolute = resolve(path);
  const stats = await stat(absolute).catch((error: unknown) => {
    throw new CheckpointError(
      `Expected a model at \`${absolute}\` but there is nothing. Give a Hugging Face folder, a .gguf file or an artifact.`,
      { path: absolute },
      error,
    );
  });
  if (stats.isFile()) {
    if (/\.gguf$/i.test(absolute)) return openGguf(absolute);
    throw new UnsupportedFormatError(
      `Expected a folder or a .gguf file but received the file \`${absolute}\`. For safetensors give the folder that also holds config.json.`,
      { path: absolute },
    );
  }
  if (existsSync(join(absolute, MANIFEST_FILE))) return openArtifact(absolute);
  const files = await readdir(absolute);
  const ggufs = files.filter((file) => /\.gguf$/i.test(file));
  const hasSafetensors = files.includes(SINGLE_FILE) || files.includes(INDEX_FILE);
  if (ggufs.length === 1 && !hasSafetensors) return openGguf(join(absolute, ggufs[0]!));
  if (ggufs.length > 1 && !hasSafetensors) {
    throw new CheckpointError(
      `Expected one .gguf file in \`${absolute}\` but found ${ggufs.length}: ${ggufs.join(', ')}. Give the path of the file you want.`,
      { path: absolute, found: ggufs },
    );
  }
  return openHuggingFace(absolute);
}
