import { LLM } from '@qspec/engine';
import { describeDifference, firstDifference } from './compare.mjs';
import { generateAll } from './text.mjs';

/** So many questions are one prompt, of several hundred tokens. */
const NUM_QUESTIONS = 16;
/** Rows of a round: most of the prompt at once takes another way through a device than short pieces do. */
const CHUNKS = [32, 1024];

/** A long prompt gives the same text however it is cut. */
export async function checkPrompts(model, weights, kvFormat, problems, report) {
  const questions = Array.from({ length: NUM_QUESTIONS }, (_, i) => problems[i % problems.length].question);
  const messages = [{ role: 'user', content: questions.join('\n') }];
  const requests = [{ request: { messages, maxTokens: 48, temperature: 0 } }];
  const [expected, actual] = await inChunks(model, { target: weights.target, draft: 'none', kvFormat }, requests);
  const difference = firstDifference(expected, actual);
  report.check(
    `${weights.name}, KV ${kvFormat}, ${weights.target}, a long prompt at once as in pieces`,
    !difference,
    difference ? describeDifference(difference) : `${expected[0].usage.promptTokens} tokens`,
  );
}

async function inChunks(model, options, requests) {
  const all = [];
  for (const maxBatchedTokens of CHUNKS) {
    await using llm = await LLM.create(model, { ...options, maxBatchedTokens });
    all.push(await generateAll(llm, requests, 0));
  }
  return all;
}
