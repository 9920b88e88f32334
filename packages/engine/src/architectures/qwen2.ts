import type { Architecture } from './architecture.js';
import { decoderTensors } from './decoder.js';

/** Qwen 2 and 2.5: biases on q, k and v only; some layers may have a window. */
export const qwen2: Architecture = {
  name: 'qwen2',
  tensors: (config) =>
    decoderTensors(config, {
      qkvBias: true,
      oBias: false,
      mlpBias: false,
      qkNorm: false,
      slidingWindow: (layer) => config.slidingWindows[layer] ?? 0,
    }),
};
