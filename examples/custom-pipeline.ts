// The packages without the `LLM` around them: checkpoint → backend → programs → session, with a decode loop of one's own.
//   npx tsx --conditions=@qspec/source examples/custom-pipeline.ts
import { openCheckpoint } from '@qspec/checkpoint';
import { resolveSamplingParams } from '@qspec/core';
import { checkpointTensors, loadModel, planMemory, recordProgram } from '@qspec/engine';
import { createCpuBackend } from '@qspec/kernels';
import { KvCacheManager } from '@qspec/kv-cache';
import { Tokenizer } from '@qspec/tokenizer';
import { isMain, TALLY } from './run-directly.js';

const SEQUENCE = 0;

export async function main(write: (text: string) => void, path = TALLY): Promise<string> {
  await using checkpoint = await openCheckpoint(path);
  const { config } = checkpoint;
  const tokenizer = await Tokenizer.fromFolder(path);
  const backend = createCpuBackend();
  const model = await loadModel(backend, config, checkpointTensors(checkpoint));
  const { kv } = planMemory({
    ...{ config, kvFormat: 'bf16', pageSize: 16, maxContext: 256, isContextFixed: true, maxRunning: 1, maxDraftLen: 0 },
    freeBytes: backend.device.freeBytes,
  });
  const session = await backend.createSession({
    ...{ target: recordProgram(model, { mode: 'w16a16' }), kv, vocabSize: config.vocabSize },
    ...{ maxRows: 128, maxLogitRows: 1 },
  });
  const pages = new KvCacheManager(kv);
  const params = resolveSamplingParams({ temperature: 0 });

  const messages = [{ role: 'user', content: 'Rosa has 80 nuts and gives away 23. How many are left?' }];
  let inputs = await tokenizer.encodeChat(messages, { addGenerationPrompt: true });
  const detokenizer = tokenizer.createDetokenizer();
  let text = '';
  pages.begin(SEQUENCE, inputs);
  for (let round = 0; round < 100; round++) {
    const start = pages.committedLen(SEQUENCE);
    pages.tryReserve(SEQUENCE, start + inputs.length);
    const pageIds = pages.pageTable(SEQUENCE);
    const { tokens } = await session.round({
      ...{ tokens: inputs, tokenOffsets: Int32Array.of(0, inputs.length), startPositions: Int32Array.of(start) },
      ...{ pageIds, pageOffsets: Int32Array.of(0, pageIds.length), emit: Uint8Array.of(1), gammas: Int32Array.of(0) },
      samplers: [{ params, stream: 0, history: new Int32Array(0), numPromptTokens: 0 }],
    });
    pages.commit(SEQUENCE, inputs);
    if (config.eosTokenIds.includes(tokens[0]!)) break;
    const piece = detokenizer.push(tokens[0]!);
    text += piece;
    write(piece);
    inputs = tokens;
  }
  pages.release(SEQUENCE);
  session.dispose();
  backend.dispose();
  return text + detokenizer.flush();
}

if (isMain(import.meta.url)) await main((text) => process.stdout.write(text));
