import { type KvAllocator, needsTokenHistory, type RoundBatch, type SequenceSampler } from '@qspec/core';
import type { ScheduledBatch } from '@qspec/scheduler';

/** What the round needs to know of a request beyond its schedule. */
export interface SamplerSource {
  readonly sampler: Omit<SequenceSampler, 'history'>;
  /** Prompt and output so far. */
  tokens(): Int32Array;
}

/** A scheduled batch as the typed arrays that a session takes. */
export function encodeRound(
  batch: ScheduledBatch,
  allocator: Pick<KvAllocator, 'pageTable'>,
  sourceOf: (requestId: number) => SamplerSource,
): RoundBatch {
  const { entries } = batch;
  const pageTables = entries.map((entry) => allocator.pageTable(entry.requestId));
  return {
    tokenOffsets: prefixSums(entries.map((entry) => entry.numInputs)),
    tokens: concat(entries.map((entry) => entry.tokens)),
    startPositions: Int32Array.from(entries, (entry) => entry.startPosition),
    emit: Uint8Array.from(entries, (entry) => (entry.emit ? 1 : 0)),
    gammas: Int32Array.from(entries, (entry) => entry.gamma),
    pageOffsets: prefixSums(pageTables.map((table) => table.length)),
    pageIds: concat(pageTables),
    samplers: entries.map((entry) => toSampler(sourceOf(entry.requestId), entry.startPosition + entry.numInputs)),
  };
}

function toSampler(source: SamplerSource, historyLen: number): SequenceSampler {
  const isNeeded = needsTokenHistory(source.sampler.params);
  return { ...source.sampler, history: isNeeded ? source.tokens().slice(0, historyLen) : EMPTY };
}

const EMPTY = new Int32Array(0);

function prefixSums(lengths: readonly number[]): Int32Array {
  const sums = new Int32Array(lengths.length + 1);
  lengths.forEach((length, i) => {
    sums[i + 1] = sums[i]! + length;
  });
  return sums;
}

function concat(arrays: readonly Int32Array[]): Int32Array {
  const all = new Int32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let start = 0;
  for (const array of arrays) {
    all.set(array, start);
    start += array.length;
  }
  return all;
}
