import { LLM } from '@qspec/engine';
import { sumSpeculation } from '../../../../apps/cli/src/evaluation/run-problems.ts';
import { BATCHES, GAMMAS, gammaOf, MAX_GAMMA } from './cases.mjs';
import { describeDifference, firstDifference } from './compare.mjs';
import { checkLogprobs } from './logprobs.mjs';

/** The kinds of requests that are reported each in a line of its own. */
const KINDS = ['greedy', 'sampled'];

/**
 * One set of weights over one KV format: plain text alone as in a batch, and every draft at every γ as plain.
 * @returns the plain results, one a request.
 */
export async function checkText(model, weights, kvFormat, requests, report) {
  const [alone, together] = await plainResults(model, weights, kvFormat, requests);
  const label = `${weights.name}, KV ${kvFormat}, ${weights.target}`;
  const expected = { label, requests, results: together, report };
  checkSame(expected, alone, 'plain, batch 1 as batch 16');
  for (const draft of weights.drafts) {
    for (const maxRunning of BATCHES) {
      const options = { target: weights.target, draft, gamma: MAX_GAMMA, kvFormat, maxRunning };
      await using llm = await LLM.create(model, options);
      for (const gamma of GAMMAS) {
        const results = await generateAll(llm, requests, gamma);
        checkSame(expected, results, `draft ${draft}, γ ${gamma}, batch ${maxRunning}`, gamma !== 0);
      }
      if (maxRunning > 1) await checkLogprobs(expected, llm, generateAll, draft);
    }
  }
  return together;
}

async function plainResults(model, weights, kvFormat, requests) {
  const all = [];
  for (const maxRunning of BATCHES) {
    await using llm = await LLM.create(model, { target: weights.target, draft: 'none', kvFormat, maxRunning });
    all.push(await generateAll(llm, requests, 0));
  }
  return all;
}

export function generateAll(llm, requests, gamma) {
  return Promise.all(requests.map(({ request }, i) => llm.generate({ ...request, gamma: gammaOf(gamma, i) })));
}

/** A check for each kind: the same tokens everywhere and, where a draft was asked for, drafts that were really made. */
function checkSame({ label, requests, results, report }, actual, how, isSpeculative = false) {
  for (const kind of KINDS) {
    const of = (list) => list.filter((_, i) => requests[i].kind === kind);
    const difference = firstDifference(of(results), of(actual));
    const { proposedTokens, acceptanceRate } = sumSpeculation(
      of(actual).flatMap(({ completions }) => completions.map(({ speculation }) => speculation)),
    );
    const isMissing = isSpeculative && proposedTokens === 0;
    const remark = isSpeculative ? `acceptance ${(100 * acceptanceRate).toFixed(1)} %` : '';
    const problem = difference ? describeDifference(difference) : isMissing ? 'no token was drafted' : undefined;
    report.check(`${label}, ${how}, ${kind}`, !problem, problem ?? remark);
  }
}
