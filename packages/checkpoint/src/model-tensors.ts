import { CheckpointError, type ModelConfig, ShapeMismatchError } from '@qspec/core';
import type { Checkpoint, TensorInfo } from './checkpoint.js';

/** Name and shape of every tensor that a forward pass of `config` reads, in order of use. */
export function requiredTensors(config: ModelConfig): ReadonlyMap<string, readonly number[]> {
  const { hiddenSize, vocabSize } = config;
  const tensors = new Map<string, readonly number[]>([['model.embed_tokens.weight', [vocabSize, hiddenSize]]]);
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const [name, shape] of layerTensors(config)) tensors.set(`model.layers.${layer}.${name}`, shape);
  }
  tensors.set('model.norm.weight', [hiddenSize]);
  if (!config.tieWordEmbeddings) tensors.set('lm_head.weight', [vocabSize, hiddenSize]);
  return tensors;
}

function layerTensors(config: ModelConfig): [string, readonly number[]][] {
  const { hiddenSize, intermediateSize, headDim, qkvBias, oBias, mlpBias } = config;
  const queryWidth = config.numHeads * headDim;
  const kvWidth = config.numKvHeads * headDim;
  const linear = (
    name: string,
    numRows: number,
    numColumns: number,
    hasBias: boolean,
  ): [string, readonly number[]][] => [
    [`${name}.weight`, [numRows, numColumns]],
    ...(hasBias ? [[`${name}.bias`, [numRows]] as [string, readonly number[]]] : []),
  ];
  return [
    ['input_layernorm.weight', [hiddenSize]],
    ...linear('self_attn.q_proj', queryWidth, hiddenSize, qkvBias),
    ...linear('self_attn.k_proj', kvWidth, hiddenSize, qkvBias),
    ...linear('self_attn.v_proj', kvWidth, hiddenSize, qkvBias),
    ...(config.qkNorm
      ? ([
          ['self_attn.q_norm.weight', [headDim]],
          ['self_attn.k_norm.weight', [headDim]],
        ] as [string, readonly number[]][])
      : []),
    ...linear('self_attn.o_proj', hiddenSize, queryWidth, oBias),
    ['post_attention_layernorm.weight', [hiddenSize]],
    ...linear('mlp.gate_proj', intermediateSize, hiddenSize, mlpBias),
    ...linear('mlp.up_proj', intermediateSize, hiddenSize, mlpBias),
    ...linear('mlp.down_proj', hiddenSize, intermediateSize, mlpBias),
  ];
}

/** @throws ShapeMismatchError unless the tensor has exactly `shape`. */
export function expectShape(info: Pick<TensorInfo, 'name' | 'shape' | 'file'>, shape: readonly number[]): void {
  if (info.shape.length === shape.length && shape.every((size, i) => info.shape[i] === size)) return;
  throw new ShapeMismatchError(
    `Expected \`${info.name}\` in \`${info.file}\` to have shape [${shape.join(', ')}] but received [${info.shape.join(', ')}]. The weights and config.json belong to different models.`,
    { tensor: info.name, path: info.file, expected: shape, received: info.shape },
  );
}

/**
 * Checks that everything the architecture needs is there, in the right shape; reads no tensor.
 * @throws CheckpointError for a missing tensor (how many more are, in `details.missing`), ShapeMismatchError for a wrong shape.
 */
export function validateModelTensors(checkpoint: Checkpoint): void {
  const required = requiredTensors(checkpoint.config);
  const missing = [...required.keys()].filter((name) => !checkpoint.hasTensor(name));
  if (missing.length > 0) {
    const others = missing.length > 1 ? ` (and ${missing.length - 1} more)` : '';
    throw new CheckpointError(
      `Expected tensor \`${missing[0]}\`${others} in \`${checkpoint.path}\` but it is missing. The checkpoint is incomplete, or its config.json describes another model.`,
      { tensor: missing[0], path: checkpoint.path, missing },
    );
  }
  for (const [name, shape] of required) expectShape(checkpoint.tensorInfo(name), shape);
}
