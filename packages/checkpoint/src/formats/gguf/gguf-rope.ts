import { UnsupportedFormatError } from '@qspec/core';
import type { UnknownFields } from '../../json.js';
import { shortest } from './gguf-config.js';
import type { GgufValue } from './gguf-metadata.js';

type Get = (key: string) => GgufValue | undefined;

/** `rope_theta` and `rope_scaling` from metadata and, for Llama 3, from the divisors in `rope_freqs.weight`. */
export function ropeFromMetadata(path: string, get: Get, ropeFactors: Float32Array | undefined): UnknownFields {
  const theta = get('rope.freq_base') ?? 10_000;
  if (ropeFactors) return { rope_theta: theta, rope_scaling: llama3Scaling(path, Number(theta), ropeFactors) };
  const type = get('rope.scaling.type') ?? (get('rope.scale_linear') === undefined ? 'none' : 'linear');
  if (type === 'none') return { rope_theta: theta };
  const factor = shortest(get('rope.scaling.factor') ?? get('rope.scale_linear'));
  const optional = (field: string, key: string): UnknownFields => {
    const value = shortest(get(`rope.scaling.${key}`));
    return value === undefined ? {} : { [field]: value };
  };
  return {
    rope_theta: theta,
    rope_scaling: {
      rope_type: type,
      factor,
      ...(type === 'yarn' && {
        ...optional('original_max_position_embeddings', 'original_context_length'),
        ...optional('beta_fast', 'yarn_beta_fast'),
        ...optional('beta_slow', 'yarn_beta_slow'),
      }),
    },
  };
}

/** What every Llama 3.1 and later was trained with; the file holds only the divisors that follow from it. */
const LLAMA3 = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 } as const;
const TOLERANCE = 1e-3;

function llama3Scaling(path: string, theta: number, received: Float32Array): UnknownFields {
  const factor = received.reduce((max, value) => Math.max(max, value), 1);
  const headDim = received.length * 2;
  const isStandard = received.every((value, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
    const expected = llama3Divisor(wavelength, factor);
    return Math.abs(value - expected) <= TOLERANCE * expected;
  });
  if (isStandard) return { rope_type: 'llama3', factor, ...LLAMA3 };
  throw new UnsupportedFormatError(
    `Expected \`rope_freqs.weight\` in \`${path}\` to follow Llama 3's rule (low 1, high 4, context 8192) but it does not. Put the model's config.json beside the file.`,
    { path },
  );
}

function llama3Divisor(wavelength: number, factor: number): number {
  const { low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: context } = LLAMA3;
  if (wavelength < context / high) return 1;
  if (wavelength > context / low) return factor;
  const smooth = (context / wavelength - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}
