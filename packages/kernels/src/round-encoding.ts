import { ConfigError, type RoundBatch, type RoundResult, type SequenceSampler, type TokenLogprobs } from '@qspec/core';
import { type NativeRoundBatch, type NativeRoundResult, SAMPLER_FIELDS } from './native-types.js';

/** Flattens the samplers; everything else passes through. The native side checks all values. */
export function encodeRoundBatch(batch: RoundBatch): NativeRoundBatch {
  const { samplers } = batch;
  if (samplers.length !== batch.gammas.length) {
    throw new ConfigError(
      `Expected \`samplers\` to have ${batch.gammas.length} entries, one a sequence, but received ${samplers.length}.`,
      { option: 'samplers', received: samplers.length },
    );
  }
  const rows = new Float64Array(samplers.length * SAMPLER_FIELDS.length);
  const biasIds: number[] = [];
  const biasValues: number[] = [];
  samplers.forEach((sampler, index) => {
    const biases = Object.entries(sampler.params.logitBias);
    for (const [id, value] of biases) {
      biasIds.push(Number(id));
      biasValues.push(value);
    }
    rows.set(samplerRow(sampler, biases.length), index * SAMPLER_FIELDS.length);
  });
  return {
    pageOffsets: batch.pageOffsets,
    pageIds: batch.pageIds,
    tokenOffsets: batch.tokenOffsets,
    tokens: batch.tokens,
    startPositions: batch.startPositions,
    emit: batch.emit,
    gammas: batch.gammas,
    draftTokens: batch.draftTokens,
    samplers: rows,
    biasIds: Int32Array.from(biasIds),
    biasValues: Float32Array.from(biasValues),
    history: concatenate(samplers.map((sampler) => sampler.history)),
  };
}

/** In the order of SAMPLER_FIELDS. */
function samplerRow({ params, stream, history, numPromptTokens }: SequenceSampler, numBias: number): number[] {
  return [
    params.temperature,
    params.topK,
    params.topP,
    params.minP,
    params.repetitionPenalty,
    params.presencePenalty,
    params.frequencyPenalty,
    params.seed,
    stream,
    numPromptTokens,
    params.logprobs ?? -1,
    numBias,
    history.length,
  ];
}

function concatenate(arrays: readonly Int32Array[]): Int32Array {
  const result = new Int32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let offset = 0;
  for (const array of arrays) {
    result.set(array, offset);
    offset += array.length;
  }
  return result;
}

/** Gives the flat log-probabilities their shape back. */
export function decodeRoundResult(batch: RoundBatch, result: NativeRoundResult): RoundResult {
  const { tokenOffsets, tokens, numAccepted, draftMs, verifyMs } = result;
  let top = 0;
  const logprobs = batch.samplers.map((sampler, sequence) => {
    if (sampler.params.logprobs === undefined) return undefined;
    const list: TokenLogprobs[] = [];
    for (let i = tokenOffsets[sequence]!; i < tokenOffsets[sequence + 1]!; i++) {
      const count = result.topCounts[i]!;
      list.push({
        token: tokens[i]!,
        logprob: result.logprobs[i]!,
        top: Array.from({ length: count }, (_, j) => ({
          token: result.topTokens[top + j]!,
          logprob: result.topLogprobs[top + j]!,
        })),
      });
      top += count;
    }
    return list;
  });
  return { tokenOffsets, tokens, numAccepted, logprobs, draftMs, verifyMs };
}
