import type { ModelConfig, RopeScaling } from '@qspec/core';

/** Angles of rotary position embedding: position · inverseFrequencies[i]; cos and sin are multiplied by `attentionFactor`. */
export interface RopeTable {
  /** [headDim / 2] */
  readonly inverseFrequencies: Float32Array;
  readonly attentionFactor: number;
}

type Llama3Scaling = Extract<RopeScaling, { type: 'llama3' }>;
type YarnScaling = Extract<RopeScaling, { type: 'yarn' }>;

/** RoPE (arXiv 2104.09864) with the scaling that the checkpoint asks for: none, linear, Llama 3's or YaRN (arXiv 2309.00071). */
export function ropeTable(config: Pick<ModelConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>): RopeTable {
  const base = baseFrequencies(config.headDim, config.ropeTheta);
  const scaling = config.ropeScaling;
  if (!scaling) return { inverseFrequencies: Float32Array.from(base), attentionFactor: 1 };
  switch (scaling.type) {
    case 'linear':
      return { inverseFrequencies: Float32Array.from(base, (f) => f / scaling.factor), attentionFactor: 1 };
    case 'llama3':
      return { inverseFrequencies: Float32Array.from(base, (f) => llama3Frequency(f, scaling)), attentionFactor: 1 };
    case 'yarn':
      return {
        inverseFrequencies: yarnFrequencies(base, config.headDim, config.ropeTheta, scaling),
        attentionFactor: yarnAttentionFactor(scaling),
      };
  }
}

function baseFrequencies(headDim: number, theta: number): Float64Array {
  return Float64Array.from({ length: headDim / 2 }, (_, i) => theta ** ((-2 * i) / headDim));
}

/** Long wavelengths are divided by `factor`, short ones kept, those between blended by how many turns they make in the old context. */
function llama3Frequency(frequency: number, scaling: Llama3Scaling): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: oldLen } = scaling;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength > oldLen / lowFreqFactor) return frequency / factor;
  if (wavelength < oldLen / highFreqFactor) return frequency;
  const smooth = (oldLen / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

function yarnFrequencies(base: Float64Array, headDim: number, theta: number, scaling: YarnScaling): Float32Array {
  const { factor, betaFast, betaSlow, originalMaxPositionEmbeddings: oldLen, truncate = true } = scaling;
  // Dimension whose frequency makes `turns` turns in the old context.
  const dimensionOf = (turns: number) => (headDim * Math.log(oldLen / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const floor = truncate ? Math.floor : (x: number) => x;
  const ceil = truncate ? Math.ceil : (x: number) => x;
  const low = Math.max(floor(dimensionOf(betaFast)), 0);
  let high = Math.min(ceil(dimensionOf(betaSlow)), headDim - 1);
  if (high === low) high += 0.001; // the ramp keeps a width
  return Float32Array.from(base, (frequency, i) => {
    const interpolated = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return (frequency / factor) * interpolated + frequency * (1 - interpolated);
  });
}

function yarnAttentionFactor(scaling: YarnScaling): number {
  if (scaling.attentionFactor !== undefined) return scaling.attentionFactor;
  const temperature = (mscale: number) => (scaling.factor <= 1 ? 1 : 0.1 * mscale * Math.log(scaling.factor) + 1);
  // Both or neither: a checkpoint with one of them alone is treated as having none, as `transformers` does.
  if (scaling.mscale && scaling.mscaleAllDim) return temperature(scaling.mscale) / temperature(scaling.mscaleAllDim);
  return temperature(1);
}
