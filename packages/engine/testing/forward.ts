import type { KernelBackend, Session } from '@qspec/core';
import { type ProgramOptions, recordProgram } from '../src/program-builder.js';
import type { ResidentModel } from '../src/resident-model.js';

const PAGE_SIZE = 16;

/** Logits at `rows` of one sequence: prefilled in chunks, over pages in an order that is not theirs. */
export async function forwardLogits(
  backend: KernelBackend,
  model: ResidentModel,
  options: ProgramOptions,
  prompt: { readonly tokens: readonly number[]; readonly rows: readonly number[] },
  chunkLen: number,
): Promise<Float32Array> {
  const { vocabSize } = model.config;
  const numPages = Math.ceil(prompt.tokens.length / PAGE_SIZE);
  const { numLayers, numKvHeads, headDim } = model.config;
  const session = await backend.createSession({
    target: recordProgram(model, options),
    kv: { format: 'f32', numLayers, numKvHeads, headDim, numPages, pageSize: PAGE_SIZE },
    vocabSize,
    maxRows: chunkLen,
    maxLogitRows: chunkLen,
  });
  try {
    const logits = new Float32Array(prompt.rows.length * vocabSize);
    for (let start = 0; start < prompt.tokens.length; start += chunkLen) {
      const end = Math.min(start + chunkLen, prompt.tokens.length);
      await forwardChunk(session, prompt, start, end, numPages, logits);
    }
    return logits;
  } finally {
    session.dispose();
  }
}

async function forwardChunk(
  session: Session,
  prompt: { readonly tokens: readonly number[]; readonly rows: readonly number[] },
  start: number,
  end: number,
  numPages: number,
  logits: Float32Array,
): Promise<void> {
  const first = prompt.rows.filter((row) => row < start).length;
  const wanted = prompt.rows.filter((row) => row >= start && row < end);
  const result = await session.forward({
    program: 'target',
    tokens: Int32Array.from(prompt.tokens.slice(start, end)),
    positions: Int32Array.from({ length: end - start }, (_, i) => start + i),
    sequences: new Int32Array(end - start),
    pageOffsets: Int32Array.of(0, numPages),
    pageIds: Int32Array.from({ length: numPages }, (_, i) => numPages - 1 - i),
    logitRows: Int32Array.from(wanted, (row) => row - start),
  });
  if (wanted.length > 0) logits.set(result.logits!, first * (logits.length / prompt.rows.length));
}
