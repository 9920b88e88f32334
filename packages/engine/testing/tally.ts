import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openCheckpoint } from '@qspec/checkpoint';
import { quantize, type Recipe } from '@qspec/quantizer';

export const TALLY = fileURLToPath(new URL('../../../models/tally-10m', import.meta.url));

/** The first held-out problems, as chats. */
export function tallyQuestions(count: number): { role: string; content: string }[][] {
  return readFileSync(join(TALLY, 'heldout.jsonl'), 'utf8')
    .split('\n', count)
    .map((line) => [{ role: 'user', content: (JSON.parse(line) as { question: string }).question }]);
}

export interface TemporaryArtifact extends AsyncDisposable {
  readonly path: string;
}

/** tally-10m by `recipe`, in a folder that goes with the handle. */
export async function quantizedTally(recipe: Recipe): Promise<TemporaryArtifact> {
  const folder = await mkdtemp(join(tmpdir(), 'qspec-engine-'));
  await using checkpoint = await openCheckpoint(TALLY);
  const outputPath = join(folder, 'artifact');
  await quantize({ checkpoint, recipe, outputPath, numWorkers: 1 });
  return { path: outputPath, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}
