import type { Architecture } from './architecture.js';
import { decoderTensors } from './decoder.js';

/** Mistral 7B and relatives: Llama without biases, attention over a sliding window when the configuration has one. */
export const mistral: Architecture = {
  name: 'mistral',
  tensors: (config) =>
    decoderTensors(config, {
      qkvBias: false,
      oBias: false,
      mlpBias: false,
      qkNorm: false,
      slidingWindow: (layer) => config.slidingWindows[layer] ?? 0,
    }),
};
