import { describeDifference, firstDifference } from './compare.mjs';

/** Requests that are asked for log-probabilities, which takes another way through a device's round. */
const NUM_REQUESTS = 16;
const GAMMA = 3;

/** Asking for log-probabilities changes no token, and speculation changes no bit of them. */
export async function checkLogprobs({ label, requests, results, report }, llm, generateAll, draft) {
  const asked = requests
    .slice(0, NUM_REQUESTS)
    .map(({ kind, request }) => ({ kind, request: { ...request, logprobs: 3 } }));
  const plain = await generateAll(llm, asked, 0);
  const speculative = await generateAll(llm, asked, GAMMA);
  const difference = firstDifference(results.slice(0, asked.length), speculative);
  const isEqual = logprobsOf(plain) === logprobsOf(speculative);
  const problem = difference ? describeDifference(difference) : isEqual ? '' : 'log-probabilities differ from plain';
  report.check(`${label}, draft ${draft}, γ ${GAMMA}, log-probabilities`, !problem, problem);
}

function logprobsOf(results) {
  return JSON.stringify(results.map(({ completions }) => completions.map(({ logprobs }) => logprobs)));
}
