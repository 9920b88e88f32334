// Load a model, stream an answer, print how it went.
//   npx tsx --conditions=@qspec/source examples/generate.ts
import { LLM } from '@qspec/engine';
import { isMain, TALLY } from './run-directly.js';

export async function main(write: (text: string) => void, path = TALLY): Promise<string> {
  await using llm = await LLM.load(path, { device: 'auto' });
  const messages = [
    { role: 'user', content: 'Uma has 46 pears. Tariq has 6 times as many as Uma. How many do they have together?' },
  ];
  for await (const event of llm.stream({ messages, temperature: 0, maxTokens: 120 })) {
    if (event.type === 'text-delta') {
      write(event.text);
      continue;
    }
    const { usage, timings, reason } = event;
    write(`\n[${reason}: ${usage.completionTokens} tokens, ${timings.decodeTokensPerSecond.toFixed(0)} tokens/s]\n`);
    return event.text;
  }
  return '';
}

if (isMain(import.meta.url)) await main((text) => process.stdout.write(text));
