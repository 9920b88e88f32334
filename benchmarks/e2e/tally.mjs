// tally-10m end to end, with the acceptance that it really has: each target alone and with its draft, interleaved, on held-out problems.
//   --device cuda|cpu  --model <folder>  --out <file.csv>  --commit <id>  --runs 5  --gamma 3  --batches 1,16  --problems 16  --kv bf16
// Method: benchmarks/README.md. Bundled and run by `npm run gpu:bench`.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { LLM, Model } from '@qspec/engine';
import { measureByteLimit } from '../../apps/cli/src/bench/byte-limit.ts';
import { benchTable, measureInterleaved } from '../../apps/cli/src/bench/interleaved.ts';
import { ARTIFACTS } from '../../apps/cli/src/demo/configurations.ts';
import { readProblems } from '../../apps/cli/src/evaluation/problems.ts';
import { describeSpeculation } from '../../apps/cli/src/speculation-summary.ts';
import { withArtifacts } from '../../scripts/gpu/programs/artifacts.mjs';
import { appendRow } from '../../scripts/gpu/programs/csv.mjs';
import { openDevice } from '../../scripts/gpu/programs/device.mjs';
import { COLUMNS, toRow } from './tally-row.mjs';

const WEIGHTS = [
  { name: 'bf16', target: 'w16a16', drafts: ['none'] },
  { name: 'w4-g128-rotated', recipe: ARTIFACTS['w4-g128-rotated'], target: 'w4a16', drafts: ['w4a8', 'w4a4'] },
  {
    name: 'nested8-g128-rotated',
    recipe: ARTIFACTS['nested8-g128-rotated'],
    target: 'w8a16',
    drafts: ['w4a8', 'w4a4'],
  },
];

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    model: { type: 'string' },
    out: { type: 'string' },
    commit: { type: 'string', default: 'unknown' },
    runs: { type: 'string', default: '5' },
    gamma: { type: 'string', default: '3' },
    batches: { type: 'string', default: '1,16' },
    problems: { type: 'string', default: '16' },
    kv: { type: 'string', default: 'bf16' },
  },
});
const problems = await readProblems(join(values.model, 'heldout.jsonl'), Number(values.problems));
const backend = await openDevice(values.device);
let isAllIdentical = true;
await withArtifacts(values.model, async (artifactOf) => {
  for (const { name, recipe, target, drafts } of WEIGHTS) {
    const path = await artifactOf(recipe);
    await using model = await Model.load(path, { backend });
    for (const draft of drafts) {
      for (const batch of values.batches.split(',').map(Number))
        await measure(path, model, { name, target, draft, batch });
    }
  }
});
backend.dispose();
if (!isAllIdentical) process.stdout.write('A speculative text differs from its target: this is a bug.\n');
process.exitCode = isAllIdentical ? 0 : 1;

/** One pair at one batch size: a table on standard output, a row in the file. */
async function measure(path, model, pair) {
  const { target, draft, batch } = pair;
  const speculation = draft === 'none' ? { draft } : { draft, gamma: Number(values.gamma) };
  await using llm = await LLM.create(model, { target, ...speculation, kvFormat: values.kv, maxRunning: batch });
  const settings = { waves: wavesOf(batch), runs: Number(values.runs) };
  const samples = await measureInterleaved(llm, settings);
  const limit = await measureByteLimit(path, target, backend);
  process.stdout.write(`\n${pair.name}, ${target}, draft ${draft}, batch ${batch}\n`);
  process.stdout.write(`${benchTable(samples, batch === 1 ? limit : undefined)}\n`);
  const speculative = samples.find(({ gamma }) => gamma > 0);
  if (speculative) {
    const verdict = speculative.isIdentical ? 'yes' : 'NO';
    process.stdout.write(`${describeSpeculation(speculative.speculation)}; text identical: ${verdict}\n`);
    isAllIdentical &&= speculative.isIdentical;
  }
  const origin = { device: backend.device.description, commit: values.commit, config: model.config };
  if (values.out)
    appendRow(values.out, COLUMNS, toRow({ ...origin, ...settings, ...pair, kv: values.kv, samples, limit }));
}

/** The problems in groups of `batch`, to their natural end; at least one whole group. */
function wavesOf(batch) {
  const requests = Array.from({ length: Math.max(batch, problems.length) }, (_, i) => ({
    messages: [{ role: 'user', content: problems[i % problems.length].question }],
    temperature: 0,
    maxTokens: 300,
  }));
  const numWaves = Math.floor(requests.length / batch);
  return Array.from({ length: numWaves }, (_, i) => requests.slice(i * batch, (i + 1) * batch));
}
