import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '@qspec/checkpoint';
import { quantize } from '@qspec/quantizer';

/** Calls `action` with a function that quantises `modelPath` by a recipe (none: the original) and gives the artifact's path; all go at the end. */
export async function withArtifacts(modelPath, action) {
  const folder = await mkdtemp(join(tmpdir(), 'qspec-gpu-'));
  let numArtifacts = 0;
  const artifactOf = async (recipe) => {
    if (!recipe) return modelPath;
    const outputPath = join(folder, String(numArtifacts++));
    await using checkpoint = await openCheckpoint(modelPath);
    await quantize({ checkpoint, recipe, outputPath });
    return outputPath;
  };
  try {
    return await action(artifactOf);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
