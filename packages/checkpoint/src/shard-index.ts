import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError, UnsupportedFormatError } from '@qspec/core';
import { describe, expectObject, readJsonFile } from './json.js';
import { openSafetensors, type SafetensorsEntry, type SafetensorsFile } from './safetensors.js';

export const SINGLE_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';

/** All safetensors of a folder under one roof. */
export interface ShardSet {
  readonly shards: readonly SafetensorsFile[];
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  close(): Promise<void>;
}

/** Opens `model.safetensors`, the shards that the index names, or the folder's only safetensors file. */
export async function openShards(folder: string): Promise<ShardSet> {
  const indexPath = join(folder, INDEX_FILE);
  const weightMap = existsSync(indexPath) ? await readWeightMap(indexPath) : undefined;
  const names = weightMap ? [...new Set(weightMap.values())].sort() : [await singleFile(folder)];
  const shards: SafetensorsFile[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(shards.map((shard) => shard.file.close()));
  };
  try {
    for (const name of names) shards.push(await openSafetensors(join(folder, name)));
    const entries = mergeEntries(shards);
    if (weightMap) expectMapped(folder, weightMap, entries);
    return { shards, entries, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function readWeightMap(path: string): Promise<Map<string, string>> {
  const weightMap = expectObject((await readJsonFile(path))['weight_map'], 'weight_map', path);
  const map = new Map<string, string>();
  for (const [tensor, file] of Object.entries(weightMap)) {
    if (typeof file !== 'string' || !/^[^/\\:]+\.safetensors$/.test(file)) {
      throw new CheckpointError(
        `Expected \`weight_map\` of \`${path}\` to give the name of a safetensors file beside it for \`${tensor}\` but received ${describe(file)}.`,
        { path, tensor, received: file },
      );
    }
    map.set(tensor, file);
  }
  if (map.size === 0)
    throw new CheckpointError(`Expected \`weight_map\` of \`${path}\` to name tensors but it is empty.`, { path });
  return map;
}

async function singleFile(folder: string): Promise<string> {
  const files = await readdir(folder);
  const found = files.filter((file) => file.endsWith('.safetensors'));
  if (found.includes(SINGLE_FILE)) return SINGLE_FILE;
  if (found.length === 1) return found[0]!;
  if (found.length === 0 && files.some((file) => /\.(bin|pth|pt)$/.test(file))) {
    throw new UnsupportedFormatError(
      `Expected safetensors in \`${folder}\` but found PyTorch pickles only. Convert them to safetensors first (\`save_pretrained\` writes them).`,
      { path: folder },
    );
  }
  throw new CheckpointError(
    `Expected \`${SINGLE_FILE}\` or \`${INDEX_FILE}\` in \`${folder}\` but found ${found.length === 0 ? 'no safetensors file' : found.join(', ')}.`,
    { path: folder },
  );
}

function mergeEntries(shards: readonly SafetensorsFile[]): Map<string, SafetensorsEntry> {
  const merged = new Map<string, SafetensorsEntry>();
  for (const shard of shards) {
    for (const [name, entry] of shard.entries) {
      const other = merged.get(name);
      if (other) {
        throw new CheckpointError(
          `Expected tensor \`${name}\` in one file but it is in \`${other.region.path}\` and in \`${shard.file.path}\`. Remove the stale shard.`,
          { tensor: name, path: shard.file.path },
        );
      }
      merged.set(name, entry);
    }
  }
  return merged;
}

function expectMapped(
  folder: string,
  weightMap: ReadonlyMap<string, string>,
  entries: ReadonlyMap<string, SafetensorsEntry>,
): void {
  for (const [tensor, file] of weightMap) {
    const path = join(folder, file);
    if (entries.get(tensor)?.region.path === path) continue;
    throw new CheckpointError(
      `Expected tensor \`${tensor}\` in \`${path}\`, where \`${INDEX_FILE}\` says, but it is not there. The shards and the index belong to different checkpoints, or a file is damaged.`,
      { tensor, path },
    );
  }
}
