// One resident copy of the weights, run three ways: the exact target, the cheap draft alone, and the draft proposing for the target.
//   npx tsx --conditions=@qspec/source examples/one-backend-two-modes.ts
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '@qspec/checkpoint';
import { LLM, type LlmOptions, Model } from '@qspec/engine';
import { quantize } from '@qspec/quantizer';
import { isMain, TALLY } from './run-directly.js';

const WAYS: Record<string, LlmOptions> = {
  'target (w8a16)': { target: 'w8a16', draft: 'none' },
  'draft alone (w4a4)': { target: 'w4a4', draft: 'none' },
  'draft for target': { target: 'w8a16', draft: 'w4a4', gamma: 3 },
};

export async function main(write: (text: string) => void): Promise<Record<string, string>> {
  const folder = await mkdtemp(join(tmpdir(), 'qspec-example-'));
  try {
    const outputPath = join(folder, 'tally-w8');
    await using checkpoint = await openCheckpoint(TALLY);
    await quantize({ checkpoint, recipe: { scheme: 'nested8', groupSize: 64 }, outputPath });
    await using model = await Model.load(outputPath);
    const texts: Record<string, string> = {};
    for (const [name, options] of Object.entries(WAYS)) {
      await using llm = await LLM.create(model, options);
      const { text, speculation } = await llm.generate({
        messages: [
          { role: 'user', content: 'Hana has 27 plums. Omar has 5 times as many. How many do they have together?' },
        ],
        temperature: 0,
        maxTokens: 100,
      });
      texts[name] = text;
      write(`${name}: ${text}\n  accepted ${Math.round(speculation.acceptanceRate * 100)} % of the drafts; `);
      write(`weights ${model.backend.residentBytes} bytes, the same for all\n`);
    }
    return texts;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

if (isMain(import.meta.url)) await main((text) => process.stdout.write(text));
