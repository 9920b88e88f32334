import { fileURLToPath } from 'node:url';
import {
  ConfigError,
  ContextLengthError,
  DisposedError,
  KvCacheExhaustedError,
  OutOfMemoryError,
  RequestAbortedError,
  UnsupportedFormatError,
} from '@qspec/core';
import { Tokenizer } from '@qspec/tokenizer';
import { describe, expect, it } from 'vitest';
import type { FakeBackendOptions } from '../testing/fake-backend.js';
import { fakeModel } from '../testing/fake-model.js';
import type { LlmOptions } from './config.js';
import { LLM } from './llm.js';
import type { GenerateRequest } from './request.js';
import type { GenerateEvent } from './request-output.js';

const TALLY = fileURLToPath(new URL('../../../models/tally-10m', import.meta.url));

async function fakeLlm(options: LlmOptions = {}, fake: FakeBackendOptions = {}, tokenizer?: Tokenizer) {
  const { model, backend } = await fakeModel(fake, tokenizer);
  return { llm: await LLM.create(model, options), backend };
}

const SPECULATIVE = { draft: 'w4a4', gamma: 4 } as const;

function requests(count: number): GenerateRequest[] {
  return Array.from({ length: count }, (_, i) => ({
    tokens: Array.from({ length: 5 + 7 * i }, (_, j) => 3 + ((j * (i % 3 === 0 ? 1 : i)) % 900)),
    maxTokens: 30 + (i % 5) * 8,
    ignoreEos: true,
    seed: i,
    ...(i % 2 ? { presencePenalty: 0.1 } : {}),
  }));
}

async function outputs(llm: LLM, list: GenerateRequest[]): Promise<(readonly number[])[]> {
  const results = await Promise.all(list.map((request) => llm.generate(request)));
  return results.map((result) => result.tokenIds);
}

async function collect(events: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const all: GenerateEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

describe('LLM over a backend that checks every page', () => {
  it('gives one request after another and all at once the same tokens', async () => {
    const { llm } = await fakeLlm();
    const list = requests(8);
    const alone: (readonly number[])[] = [];
    for (const request of list) alone.push((await llm.generate(request)).tokenIds);
    const { llm: fresh } = await fakeLlm();
    expect(await outputs(fresh, list)).toEqual(alone);
    expect(alone.map((tokens) => tokens.length)).toEqual(list.map((request) => request.maxTokens));
  });

  for (const gamma of [1, 2, 5, 8]) {
    it(`keeps the text with γ = ${gamma}, a page pool too small for the batch, and prefix hits`, async () => {
      const list = requests(12);
      const { llm: plain } = await fakeLlm({ prefixCaching: false });
      const expected = await outputs(plain, list);
      const options = { draft: 'w4a4', gamma, kvCacheTokens: 10 * 16, maxContext: 150, maxBatchedTokens: 40 } as const;
      const { llm } = await fakeLlm(options);
      expect(await outputs(llm, list)).toEqual(expected);
      expect(await outputs(llm, list)).toEqual(expected);
      const { scheduler, kvCache } = llm.stats();
      expect(scheduler.numPreemptions).toBeGreaterThan(0);
      expect(kvCache.hits).toBeGreaterThan(0);
      expect(kvCache.numUsedPages).toBe(0);
      expect(scheduler.acceptance.numAccepted).toBeGreaterThan(0);
    });
  }

  it('reports acceptance, usage and timings of a request', async () => {
    const { llm } = await fakeLlm(SPECULATIVE, { draftQuality: 1 });
    const result = await llm.generate({ tokens: [5, 6, 7], maxTokens: 21, ignoreEos: true });
    expect(result.reason).toBe('length');
    expect(result.usage).toEqual({ promptTokens: 3, cachedTokens: 0, completionTokens: 21 });
    // 1 token from prefill, then 4 rounds of 4 + 1 exactly.
    expect(result.speculation).toMatchObject({ rounds: 4, acceptanceRate: 1, meanAcceptedLength: 5 });
    expect(result.speculation.acceptanceByPosition).toEqual([1, 1, 1, 1]);
    expect(result.timings.totalMs).toBeGreaterThanOrEqual(result.timings.firstTokenMs);
  });

  it('lets a request have less γ than the model', async () => {
    const { llm, backend } = await fakeLlm(SPECULATIVE);
    await llm.generate({ tokens: [5, 6], maxTokens: 9, ignoreEos: true, gamma: 0 });
    expect(Math.max(...backend.sessions[0]!.rounds.flatMap((round) => [...round.gammas]))).toBe(0);
  });

  it('gives n samples from n random streams', async () => {
    const { llm } = await fakeLlm();
    const { completions, tokenIds } = await llm.generate({ tokens: [9, 9, 9], n: 3, maxTokens: 6, ignoreEos: true });
    expect(completions.map((completion) => completion.index)).toEqual([0, 1, 2]);
    expect(new Set(completions.map((completion) => completion.tokenIds.join())).size).toBe(3);
    expect(tokenIds).toEqual(completions[0]!.tokenIds);
  });

  it('ends at an end-of-sequence token, at a stop token, and passes both by when told to', async () => {
    const pick = (context: readonly number[]) => (context.length === 6 ? 2 : context.length === 4 ? 77 : 50);
    const { llm } = await fakeLlm(SPECULATIVE, { pick });
    const run = (extra: Partial<GenerateRequest>) => llm.generate({ tokens: [5, 6, 7], maxTokens: 8, ...extra });
    expect(await run({})).toMatchObject({ reason: 'stop', tokenIds: [50, 77, 50, 2] });
    expect(await run({ stopTokenIds: [77] })).toMatchObject({ reason: 'stop', tokenIds: [50, 77] });
    expect((await run({ ignoreEos: true })).tokenIds).toHaveLength(8);
  });

  it('gives one set of log-probabilities a token', async () => {
    const { llm } = await fakeLlm(SPECULATIVE);
    const result = await llm.generate({ tokens: [5, 6], maxTokens: 12, ignoreEos: true, logprobs: 1 });
    expect(result.logprobs!.map((entry) => entry.token)).toEqual(result.tokenIds);
  });

  it('scores with pages of its own while requests run, and gives them back', async () => {
    const { llm } = await fakeLlm(SPECULATIVE);
    const tokens = Array.from({ length: 100 }, (_, i) => 3 + i);
    const running = llm.generate({ tokens: [5], maxTokens: 40, ignoreEos: true });
    const scores = await llm.scoreTokens(tokens);
    expect(scores).toHaveLength(99);
    await running;
    expect(await llm.scoreTokens(tokens)).toEqual(scores);
    expect(llm.stats().kvCache.numUsedPages).toBe(0);
    const { perplexity, numPredictions } = await llm.perplexity(tokens, { windowLen: 30 });
    expect(numPredictions).toBe(3 * 29);
    expect(perplexity).toBeGreaterThan(1);
  });
});

describe('LLM text', () => {
  const script = 'One two three é 😀 done. And more';

  async function scripted(text: string, options: LlmOptions = {}) {
    const tokenizer = await Tokenizer.fromFolder(TALLY);
    const ids = [...(await tokenizer.encode(text, { addSpecialTokens: false })), 4];
    const pick = (context: readonly number[]) => ids[context.length - 2] ?? 4;
    return fakeLlm(options, { pick, draftQuality: 0.6 }, tokenizer);
  }

  for (const options of [{}, { draft: 'w4a4', gamma: 3 } as const]) {
    it(`streams deltas that add up to the text, with ${JSON.stringify(options)}`, async () => {
      const { llm } = await scripted(script, options);
      const events = await collect(llm.stream({ tokens: [5, 6], stopTokenIds: [4] }));
      const finish = events.at(-1)!;
      const deltas = events.flatMap((event) => (event.type === 'text-delta' ? [event] : []));
      expect(finish).toMatchObject({ type: 'finish', reason: 'stop', text: script });
      expect(deltas.map((delta) => delta.text).join('')).toBe(script);
      for (const delta of deltas) {
        expect(delta.text).not.toMatch(/\uFFFD|^$/);
        expect(delta.drafted).toHaveLength(delta.tokenIds.length);
      }
      const drafted = deltas.flatMap((delta) => delta.drafted).filter(Boolean).length;
      expect(drafted > 0).toBe('draft' in options);
    });

    it(`cuts exactly before a stop string that spans tokens, with ${JSON.stringify(options)}`, async () => {
      const { llm } = await scripted(script, options);
      const events = await collect(llm.stream({ tokens: [5, 6], stop: ['😀 don', 'never'] }));
      const text = events.map((event) => (event.type === 'text-delta' ? event.text : '')).join('');
      expect(text).toBe('One two three é ');
      expect(events.at(-1)).toMatchObject({ type: 'finish', reason: 'stop-string', text });
    });
  }

  it('lets a held back beginning of a stop string go when the output ends', async () => {
    const { llm } = await scripted('abc##');
    expect(await llm.generate({ tokens: [5, 6], stopTokenIds: [4], stop: '####' })).toMatchObject({ text: 'abc##' });
  });
});

describe('LLM aborts and errors', () => {
  it('aborts between rounds: the stream rejects, pages come back, others go on', async () => {
    const controller = new AbortController();
    let rounds = 0;
    const onRound = () => {
      if (++rounds === 5) controller.abort(new Error('enough'));
    };
    const { llm } = await fakeLlm(SPECULATIVE, { onRound });
    const other = llm.generate({ tokens: [7, 8], maxTokens: 60, ignoreEos: true });
    const error = await llm
      .generate({ tokens: [5, 6], maxTokens: 400, ignoreEos: true, signal: controller.signal })
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(RequestAbortedError);
    expect((error as RequestAbortedError).cause).toEqual(new Error('enough'));
    expect((await other).tokenIds).toHaveLength(60);
    expect(llm.stats().kvCache.numUsedPages).toBe(0);
  });

  it('aborts between two chunks of a prompt', async () => {
    const controller = new AbortController();
    let rounds = 0;
    const onRound = () => {
      if (++rounds === 2) controller.abort();
    };
    const { llm } = await fakeLlm({ maxBatchedTokens: 16 }, { onRound });
    const tokens = Array.from({ length: 400 }, () => 9);
    await expect(llm.generate({ tokens, signal: controller.signal })).rejects.toThrow(RequestAbortedError);
    await llm.generate({ tokens: [5], maxTokens: 1 });
    expect(rounds).toBe(3);
    expect(llm.stats().kvCache.numUsedPages).toBe(0);
  });

  it('refuses a signal that fired before', async () => {
    const { llm } = await fakeLlm();
    await expect(llm.generate({ tokens: [5], signal: AbortSignal.abort() })).rejects.toThrow(RequestAbortedError);
  });

  it('ends the request when the reader leaves the loop', async () => {
    const { llm } = await fakeLlm({}, {}, await Tokenizer.fromFolder(TALLY));
    for await (const event of llm.stream({ tokens: [5], maxTokens: 300, ignoreEos: true })) {
      if (event.type === 'text-delta') break;
    }
    await llm.generate({ tokens: [5], maxTokens: 1 });
    expect(llm.stats().scheduler.numAborted).toBe(1);
    expect(llm.stats().kvCache.numUsedPages).toBe(0);
  });

  it('rejects what does not fit and names the numbers', async () => {
    const { llm } = await fakeLlm({ maxContext: 64 });
    const long = Array.from({ length: 64 }, () => 5);
    await expect(llm.generate({ tokens: long })).rejects.toThrow(ContextLengthError);
    await expect(llm.generate({ tokens: long })).rejects.toThrow(/fewer than 64 tokens but received 64/);
    await expect(llm.scoreTokens(Array.from({ length: 70 }, () => 5))).rejects.toThrow(ContextLengthError);
    expect(await llm.generate({ tokens: long.slice(1), ignoreEos: true })).toMatchObject({ reason: 'length' });
  });

  const bad: [string, GenerateRequest][] = [
    ['exactly one of', {}],
    ['exactly one of', { tokens: [5], prompt: 'x' }],
    ['temperature', { tokens: [5], temperature: Number.NaN }],
    ['maxTokens', { tokens: [5], maxTokens: 0 }],
    ['gamma', { tokens: [5], gamma: -1 }],
    ['stop', { tokens: [5], stop: [''] }],
    ['tokens\\[1\\]', { tokens: [5, 1000] }],
    ['tokens\\[0\\]', { tokens: [-1] }],
    ['promptTokens', { tokens: [] }],
    ['`n`', { tokens: [5], n: 0 }],
    ['tokenizer', { prompt: 'there is no tokenizer' }],
  ];
  for (const [name, request] of bad) {
    it(`rejects ${JSON.stringify(request)} naming ${name}`, async () => {
      const { llm } = await fakeLlm();
      await expect(llm.generate(request)).rejects.toThrow(ConfigError);
      await expect(llm.generate(request)).rejects.toThrow(new RegExp(name));
    });
  }

  it('refuses options that make no sense', async () => {
    const { model } = await fakeModel();
    const create = (options: object) => LLM.create(model, options);
    await expect(create({ draft: 'w4a4', gamma: -1 })).rejects.toThrow(/`gamma`.*-1/);
    await expect(create({ gamma: 2 })).rejects.toThrow(/`gamma` to be 0 without a draft/);
    await expect(create({ target: 'w8a16' })).rejects.toThrow(/These weights run as w4a16, w4a8, w4a4/);
    await expect(create({ target: 'w4a4', draft: 'w4a4' })).rejects.toThrow(/draft mode \(w4a4\) runs alone/);
    await expect(create({ draft: 'w3a3' })).rejects.toThrow(/`draft`.*w3a3/);
    await expect(create({ pageSize: 17 })).rejects.toThrow(/`pageSize`/);
    await expect(create({ maxRunning: 8, maxBatchedTokens: 4 })).rejects.toThrow(/`maxBatchedTokens`/);
    await expect(create({ maxContext: 512, kvCacheTokens: 64 })).rejects.toThrow(OutOfMemoryError);
  });

  it('refuses a cache that the device has no kernels for', async () => {
    const { model, backend } = await fakeModel({ name: 'cuda' });
    await expect(LLM.create(model, { kvFormat: 'f32' })).rejects.toThrow(UnsupportedFormatError);
    await using llm = await LLM.create(model, { kvFormat: 'int8-nested' });
    expect(llm.maxContext).toBe(512);
    expect(backend.sessions).toHaveLength(1);
  });

  it('lowers the context to what the pool holds, refuses what is longer and serves the rest', async () => {
    const { llm } = await fakeLlm({ kvCacheTokens: 64 });
    expect(llm.maxContext).toBe(63);
    const [small, large] = await Promise.allSettled([
      llm.generate({ tokens: [5], maxTokens: 8, ignoreEos: true }),
      llm.generate({ tokens: Array.from({ length: 70 }, () => 5) }),
    ]);
    expect(small.status).toBe('fulfilled');
    expect((large as PromiseRejectedResult).reason).toBeInstanceOf(ContextLengthError);
  });

  it('refuses to score when running requests hold the pages', async () => {
    let scoring: Promise<unknown> | undefined;
    const onRound = () => {
      scoring ??= expect(llm.scoreTokens(Array.from({ length: 60 }, () => 5))).rejects.toThrow(KvCacheExhaustedError);
    };
    const { llm } = await fakeLlm({ kvCacheTokens: 64 }, { onRound });
    const running = llm.generate({ tokens: Array.from({ length: 30 }, () => 5), maxTokens: 20, ignoreEos: true });
    expect((await running).tokenIds).toHaveLength(20);
    await scoring;
    await expect(llm.scoreTokens(Array.from({ length: 60 }, () => 5))).resolves.toHaveLength(59);
  });

  it('gives the error of a failing device to whom it concerns and goes on', async () => {
    let isBroken = true;
    const onRound = () => {
      if (isBroken) throw new Error('device lost');
    };
    const { llm } = await fakeLlm({}, { onRound });
    await expect(llm.generate({ tokens: [5] })).rejects.toThrow('device lost');
    isBroken = false;
    expect(llm.stats().kvCache.numUsedPages).toBe(0);
  });

  it('aborts what runs when it is closed, then refuses to be used', async () => {
    const { llm, backend } = await fakeLlm();
    const running = llm.generate({ tokens: [5], maxTokens: 400, ignoreEos: true });
    const outcome = expect(running).rejects.toThrow(RequestAbortedError);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await Promise.all([llm.close(), llm.close()]);
    await outcome;
    expect(backend.sessions[0]!.isDisposed).toBe(true);
    expect(backend.isDisposed).toBe(false); // it was given, so it is the giver's
    await expect(llm.generate({ tokens: [5] })).rejects.toThrow(DisposedError);
    await expect(llm.scoreTokens([5, 6])).rejects.toThrow(DisposedError);
  });
});
