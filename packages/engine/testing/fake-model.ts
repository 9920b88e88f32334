import type { ModelConfig } from '@qspec/core';
import type { Tokenizer } from '@qspec/tokenizer';
import { Model } from '../src/model.js';
import { FakeBackend, type FakeBackendOptions } from './fake-backend.js';

export const FAKE_CONFIG: ModelConfig = {
  architecture: 'llama',
  hiddenSize: 32,
  intermediateSize: 32,
  numLayers: 1,
  numHeads: 1,
  numKvHeads: 1,
  headDim: 32,
  vocabSize: 1000,
  maxPositionEmbeddings: 512,
  rmsNormEps: 1e-5,
  ropeTheta: 10_000,
  tieWordEmbeddings: false,
  qkvBias: false,
  oBias: false,
  mlpBias: false,
  qkNorm: false,
  slidingWindows: [0],
  eosTokenIds: [2],
};

/** A model on a {@link FakeBackend}: real bookkeeping, made-up tokens. Quantised by name only, so that every mode may run. */
export async function fakeModel(
  options: FakeBackendOptions = {},
  tokenizer?: Tokenizer,
): Promise<{ model: Model; backend: FakeBackend }> {
  const backend = new FakeBackend(options);
  const { hiddenSize, vocabSize } = FAKE_CONFIG;
  const rowsOf = (name: string) => (/embed_tokens|lm_head/.test(name) ? vocabSize : hiddenSize);
  const tensors = {
    weight: async (name: string) => ({
      name,
      shape: [rowsOf(name), hiddenSize] as const,
      format: { kind: 'int4', groupSize: 32, hadamardBlock: 0 } as const,
      hi: new Int32Array(0),
      scales: new Uint16Array(0),
    }),
    vector: async () => new Float32Array(hiddenSize),
  };
  const model = await Model.fromTensors(FAKE_CONFIG, tensors, { backend, ...(tokenizer ? { tokenizer } : {}) });
  return { model, backend };
}
