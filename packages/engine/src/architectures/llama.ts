import type { Architecture } from './architecture.js';
import { decoderTensors } from './decoder.js';

/** Llama 1-3: full attention; biases only where the configuration says so. */
export const llama: Architecture = {
  name: 'llama',
  tensors: (config) =>
    decoderTensors(config, {
      qkvBias: config.qkvBias,
      oBias: config.oBias,
      mlpBias: config.mlpBias,
      qkNorm: false,
      slidingWindow: () => 0,
    }),
};
