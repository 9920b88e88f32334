import { QSpecError } from '@qspec/core';
import { LLM, Model } from '@qspec/engine';
import { createBackend, describeNative } from '@qspec/kernels';
import { firstDifference } from './compare.mjs';
import { generateAll } from './text.mjs';

const MAX_INT32 = 2 ** 31 - 1;

/** What can't be had is refused with a typed error, and what runs on the same device afterwards gives the same text. */
export async function checkBadInput(backend, modelPath, request, report) {
  await using model = await Model.load(modelPath, { backend });
  const answer = async () => {
    await using llm = await LLM.create(model);
    return await generateAll(llm, [request], 0);
  };
  const before = await answer();
  await checkRefusals(model, backend, report);
  await report.guard('bad input, afterwards', async () =>
    report.check('bad input: the same text afterwards', !firstDifference(before, await answer())),
  );
}

async function checkRefusals(model, backend, report) {
  const foreign = backend.name === 'cuda' ? 'f32' : 'int8-nested';
  const create = (options) => async () => (await LLM.create(model, options)).close();
  const openCuda = (ordinal) => async () => (await createBackend({ device: 'cuda', ordinal })).backend.dispose();
  const generate = (request) => async () => {
    await using llm = await LLM.create(model, { maxContext: 64 });
    await llm.generate(request);
  };
  const cases = [
    ['a GPU that is not there', describeNative().cuda.isUsable ? 'CONFIG' : 'DEVICE', openCuda(1023)],
    ['a GPU that can’t be', 'CONFIG', openCuda(-1)],
    [`KV ${foreign} on ${backend.name}`, 'UNSUPPORTED_FORMAT', create({ kvFormat: foreign })],
    ['a context that does not fit', 'OUT_OF_MEMORY', create({ maxContext: MAX_INT32 })],
    ['a KV pool that does not fit', 'OUT_OF_MEMORY', create({ kvCacheTokens: MAX_INT32 })],
    ['a prompt longer than the context', 'CONTEXT_LENGTH', generate({ tokens: new Int32Array(65) })],
    ['a token that is none', 'CONFIG', generate({ tokens: [model.config.vocabSize] })],
  ];
  for (const [name, code, attempt] of cases) await checkRefused(`bad input: ${name}`, code, attempt, report);
}

async function checkRefused(name, code, attempt, report) {
  try {
    await attempt();
    report.check(name, false, `expected an error of code ${code} but there was none`);
  } catch (error) {
    const isTyped = error instanceof QSpecError && error.code === code && error.message.endsWith('.');
    report.check(name, isTyped, `${error.name}: ${error.message}`);
  }
}
