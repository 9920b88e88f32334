import { createCpuBackend } from '@qspec/kernels';
import type { Recipe } from '@qspec/quantizer';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { quantizedTally, type TemporaryArtifact, tallyQuestions } from '../testing/tally.js';
import type { LlmOptions } from './config.js';
import { type GenerateResult, LLM } from './llm.js';
import { Model } from './model.js';
import type { GenerateRequest } from './request.js';

const QUESTIONS = tallyQuestions(16);
const backend = createCpuBackend({ numThreads: 2 });

const MODELS: { name: string; recipe: Recipe; drafts: LlmOptions[] }[] = [
  {
    name: 'W4A16 of int4 weights',
    recipe: { scheme: 'w4', groupSize: 128 },
    drafts: [{ draft: 'w4a4' }, { draft: 'w4a4', draftGranularity: 'token' }, { draft: 'w4a8' }],
  },
  {
    name: 'W8A16 of nested, rotated weights with nested embeddings',
    recipe: { scheme: 'nested8', groupSize: 64, hadamardBlock: 64, embeddings: 'nested8' },
    drafts: [{ draft: 'w4a8' }, { draft: 'w4a8', draftHead: 'integer' }, { draft: 'w4a4' }],
  },
];

const SAMPLED: Partial<GenerateRequest>[] = [
  { temperature: 0.8, topP: 0.9 },
  { temperature: 1.2, topK: 20, minP: 0.02, repetitionPenalty: 1.1 },
  { temperature: 0.7, presencePenalty: 0.4, frequencyPenalty: 0.2 },
  { temperature: 1, logitBias: { 10: 2, 20: -3 }, n: 2 },
];

/** 16 requests: every other one greedy, the rest sampled with every kind of parameter; log-probabilities for some of both. */
function mixedBatch(): GenerateRequest[] {
  return QUESTIONS.map((messages, i) => ({
    messages,
    maxTokens: 48,
    ...(i % 2 === 0 ? { temperature: 0 } : { ...SAMPLED[(i >> 1) % 4], seed: 1000 + i }),
    ...(i % 3 === 0 ? { logprobs: 3 } : {}),
  }));
}

const runAll = (llm: LLM, list: GenerateRequest[]) => Promise.all(list.map((request) => llm.generate(request)));

/** What must not depend on speculation, batch, memory or caches: down to the last bit of every log-probability. */
const visible = (results: GenerateResult[]) =>
  results.map(({ completions }) =>
    completions.map(({ tokenIds, text, reason, logprobs }) => ({ tokenIds, text, reason, logprobs })),
  );

afterAll(() => backend.dispose());

describe.each(MODELS)('$name', ({ recipe, drafts }) => {
  let artifact: TemporaryArtifact;
  let model: Model;
  let expected: ReturnType<typeof visible>;

  beforeAll(async () => {
    artifact = await quantizedTally(recipe);
    model = await Model.load(artifact.path, { backend });
    await using plain = await LLM.create(model, { draft: 'none', prefixCaching: false });
    expected = visible(await runAll(plain, mixedBatch()));
  });

  afterAll(async () => {
    await model?.close();
    await artifact?.[Symbol.asyncDispose]();
  });

  it('gives a request the same text alone as in a batch of 16', async () => {
    await using llm = await LLM.create(model, { draft: 'none', maxRunning: 1 });
    expect(visible(await runAll(llm, mixedBatch().slice(0, 6)))).toEqual(expected.slice(0, 6));
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('keeps greedy and sampled text and logprobs with γ = %i', async (gamma) => {
    await using llm = await LLM.create(model, { ...drafts[gamma % drafts.length], gamma });
    expect(visible(await runAll(llm, mixedBatch()))).toEqual(expected);
    expect(llm.stats().scheduler.acceptance.numAccepted).toBeGreaterThan(0);
  });

  it.each([1, 2, 5])('keeps the text with at most %i requests at a time', async (maxRunning) => {
    await using llm = await LLM.create(model, { ...drafts[0], gamma: 4, maxRunning });
    expect(visible(await runAll(llm, mixedBatch().slice(0, 6)))).toEqual(expected.slice(0, 6));
  });

  it('keeps the text under preemption, small prompt chunks and prefix hits', async () => {
    const memory = { kvCacheTokens: 320, maxContext: 280, maxBatchedTokens: 48 };
    await using llm = await LLM.create(model, { ...drafts[0], gamma: 3, ...memory });
    expect(visible(await runAll(llm, mixedBatch()))).toEqual(expected);
    expect(visible(await runAll(llm, mixedBatch()))).toEqual(expected);
    const { scheduler, kvCache } = llm.stats();
    expect(scheduler.numPreemptions).toBeGreaterThan(0);
    expect(kvCache.hits).toBeGreaterThan(0);
    expect(kvCache.numUsedPages).toBe(0);
  });

  it.each(['f32', 'int8'] as const)('keeps the text over a KV cache of format %s', async (kvFormat) => {
    const requests = mixedBatch().slice(0, 6);
    await using plain = await LLM.create(model, { draft: 'none', kvFormat });
    await using llm = await LLM.create(model, { ...drafts[0], gamma: 4, kvFormat });
    expect(visible(await runAll(llm, requests))).toEqual(visible(await runAll(plain, requests)));
  });

  it('scores tokens as it samples them', async () => {
    await using llm = await LLM.create(model, { draft: 'none' });
    const prompt = await llm.tokenizer.encodeChat(QUESTIONS[0]!, { addGenerationPrompt: true });
    const result = await llm.generate({ tokens: prompt, temperature: 0, maxTokens: 30, logprobs: 0 });
    const scores = await llm.scoreTokens([...prompt, ...result.tokenIds]);
    const ofOutput = [...scores.subarray(prompt.length - 1)];
    expect(ofOutput).toEqual(result.logprobs!.map((entry) => expect.closeTo(entry.logprob, 5)));
  });

  it('runs the draft alone as a target of its own, with other text', async () => {
    await using llm = await LLM.create(model, { target: 'w4a4', draft: 'none', draftGranularity: 'token' });
    expect(visible(await runAll(llm, mixedBatch()))).not.toEqual(expected);
  });
});
