import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createArtifactWriter } from '../src/artifact/create-artifact-writer.js';
import type { ArtifactSummary, ArtifactWriter, ArtifactWriterOptions } from '../src/artifact-writer.js';
import { int4Source, nestedSource, randomBytes, TINY_CONFIG } from './sources.js';

export const Q_PROJ = int4Source({ name: 'model.layers.0.self_attn.q_proj.weight', shape: [64, 64], seed: 10 });
export const EMBEDDING = nestedSource({ name: 'model.embed_tokens.weight', shape: [7, 64], groupSize: 64, seed: 20 });
/** 7 elements of 2 bytes: no multiple of 8, so it has to wait for the end of its shard. */
export const ODD_BYTES = randomBytes(14, 30);

/** Writes every kind of tensor and file that an artifact may hold. */
export async function writeTinyArtifact(
  path: string,
  options: Partial<ArtifactWriterOptions> = {},
): Promise<ArtifactSummary> {
  await using writer = await createArtifactWriter(path, { config: TINY_CONFIG, recipe: { scheme: 'w4' }, ...options });
  await fillTinyArtifact(writer, path);
  return writer.commit();
}

export async function fillTinyArtifact(writer: ArtifactWriter, path: string): Promise<void> {
  const tokenizer = join(dirname(path), 'tokenizer.json');
  await writeFile(tokenizer, '{"version":"1.0"}');
  await writer.addDense('odd.weight', 'bf16', [7], ODD_BYTES);
  await writer.addInt4(Q_PROJ);
  await writer.addNested8(EMBEDDING);
  await writer.addDense(
    'model.norm.weight',
    'f32',
    [64],
    new Uint8Array(Float32Array.from({ length: 64 }, (_, i) => i / 8).buffer),
  );
  await writer.addDense('counts', 'i32', [2, 2], new Uint8Array(16));
  await writer.copyFile(tokenizer);
  writer.setReport({ layers: [{ name: 'q_proj', error: 0.01 }] });
}
