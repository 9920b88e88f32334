import { type RopeScaling, UnsupportedFormatError } from '@qspec/core';
import type { ConfigFields } from './config-fields.js';

const MAX_CONTEXT = 2 ** 30;

/** Theta and scaling from either form: `rope_theta` + `rope_scaling`, or `rope_parameters` that holds both. */
export function parseRope(
  config: ConfigFields,
  maxPositionEmbeddings: number,
): { ropeTheta: number; ropeScaling?: RopeScaling } {
  const fields = config.optionalObject('rope_parameters') ?? config.optionalObject('rope_scaling');
  const ropeTheta = (fields?.has('rope_theta') ? fields : config).number('rope_theta', 1, 1e12, 10_000);
  expectFullRotary(config);
  if (!fields) return { ropeTheta };
  expectFullRotary(fields);
  const ropeScaling = parseScaling(fields, config, maxPositionEmbeddings);
  return { ropeTheta, ...(ropeScaling && { ropeScaling }) };
}

function parseScaling(fields: ConfigFields, config: ConfigFields, maxPositions: number): RopeScaling | undefined {
  const type = fields.optionalString('rope_type') ?? fields.optionalString('type') ?? 'default';
  const factor = (): number => fields.number('factor', 1e-3, 1e6);
  // Hugging Face keeps it inside, beside, or (yarn) leaves it out and means the longest context.
  const originalFrom = fields.has('original_max_position_embeddings') ? fields : config;
  const original = (fallback?: number): number =>
    originalFrom.integer('original_max_position_embeddings', 1, MAX_CONTEXT, fallback);
  switch (type) {
    case 'default':
      return undefined;
    case 'linear':
      return { type, factor: factor() };
    case 'llama3':
      return {
        type,
        factor: factor(),
        lowFreqFactor: fields.number('low_freq_factor', 1e-3, 1e6),
        highFreqFactor: fields.number('high_freq_factor', 1e-3, 1e6),
        originalMaxPositionEmbeddings: original(),
      };
    case 'yarn':
      return parseYarn(fields, factor(), original(maxPositions));
    default:
      throw new UnsupportedFormatError(
        `Expected the RoPE type in \`${config.source}\` to be one of default, linear, llama3, yarn but received \`${type}\`.`,
        { path: config.source, received: type },
      );
  }
}

function parseYarn(fields: ConfigFields, factor: number, original: number): RopeScaling {
  const attentionFactor = fields.optionalNumber('attention_factor', 1e-6, 1e6);
  const mscale = fields.optionalNumber('mscale', 0, 1e6);
  const mscaleAllDim = fields.optionalNumber('mscale_all_dim', 0, 1e6);
  return {
    type: 'yarn',
    factor,
    betaFast: fields.number('beta_fast', 1e-3, 1e6, 32),
    betaSlow: fields.number('beta_slow', 1e-3, 1e6, 1),
    originalMaxPositionEmbeddings: original,
    ...(attentionFactor !== undefined && { attentionFactor }),
    ...(mscale !== undefined && { mscale }),
    ...(mscaleAllDim !== undefined && { mscaleAllDim }),
    ...(fields.has('truncate') && { truncate: fields.boolean('truncate', true) }),
  };
}

function expectFullRotary(fields: ConfigFields): void {
  const share = fields.number('partial_rotary_factor', 0, 1, 1);
  if (share === 1) return;
  throw new UnsupportedFormatError(
    `Expected \`partial_rotary_factor\` in \`${fields.source}\` to be 1 but received ${share}: partly rotated heads are not supported.`,
    { path: fields.source, received: share },
  );
}
