// The engine's text on a device, with the small trained model: with speculation as without, token for token; alone as in a batch; prompts at once as in pieces.
// Prints a line a check and ends with `N passed, N failed`. Bundled by scripts/gpu/bundle.mjs.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Model } from '@qspec/engine';
import { readProblems } from '../../../../apps/cli/src/evaluation/problems.ts';
import { withArtifacts } from '../artifacts.mjs';
import { openDevice } from '../device.mjs';
import { checkBadInput } from './bad-input.mjs';
import { kvFormatsOf, WEIGHTS } from './cases.mjs';
import { reportCpuAgreement } from './cpu-agreement.mjs';
import { checkPrompts } from './prompts.mjs';
import { Report } from './report.mjs';
import { makeRequests } from './requests.mjs';
import { checkText } from './text.mjs';

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    model: { type: 'string' },
    problems: { type: 'string', default: '24' },
    filter: { type: 'string', default: '' },
  },
});
const report = new Report();
const problems = await readProblems(join(values.model, 'heldout.jsonl'), Number(values.problems));
const requests = makeRequests(problems);
const backend = await openDevice(values.device);
report.note(`${backend.device.description}; ${problems.length} problems, greedy and sampled`);
await withArtifacts(values.model, async (artifactOf) => {
  for (const weights of WEIGHTS.filter(({ name }) => name.includes(values.filter))) {
    const path = await artifactOf(weights.recipe);
    await using model = await Model.load(path, { backend });
    for (const kvFormat of kvFormatsOf(backend.name)) {
      const plain = await report.guard(`${weights.name}, KV ${kvFormat}`, () =>
        checkText(model, weights, kvFormat, requests, report),
      );
      await report.guard(`${weights.name}, KV ${kvFormat}, prompts`, () =>
        checkPrompts(model, weights, kvFormat, problems, report),
      );
      if (plain && kvFormat === 'bf16' && backend.name !== 'cpu') {
        await reportCpuAgreement(path, weights, requests, plain, report);
      }
    }
  }
});
await checkBadInput(backend, values.model, requests[0], report);
backend.dispose();
process.exitCode = report.finish();
