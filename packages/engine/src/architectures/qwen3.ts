import type { Architecture } from './architecture.js';
import { decoderTensors } from './decoder.js';

/** Qwen 3 (dense): each head of q and k is RMS-normalised before RoPE; headDim is free of hiddenSize / numHeads. */
export const qwen3: Architecture = {
  name: 'qwen3',
  tensors: (config) =>
    decoderTensors(config, {
      qkvBias: config.qkvBias,
      oBias: config.oBias,
      mlpBias: false,
      qkNorm: true,
      slidingWindow: (layer) => config.slidingWindows[layer] ?? 0,
    }),
};
