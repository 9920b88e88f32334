import {
  type ActivationGranularity,
  activationBits,
  type BufferIndex,
  type BufferSpec,
  type ExecutionMode,
  inputHadamardBlock,
  isQuantized,
  type Op,
  type Program,
  type RowOutput,
  type WeightFormat,
  type WeightPlane,
} from '@qspec/core';
import { assertModeFits } from './mode-check.js';
import type { ResidentLayer, ResidentLinear, ResidentModel } from './resident-model.js';

export interface ProgramOptions {
  readonly mode: ExecutionMode;
  /** Scales of integer activations: one a token or one a weight group. Default `group`; no meaning in target modes. */
  readonly granularity?: ActivationGranularity;
  /**
   * `float` (default): the head takes floating-point input and reads every plane, as the target does. `integer`: in a draft mode a
   * quantised head takes 8-bit input and reads its high plane only: cheaper, less often right.
   */
  readonly headArithmetic?: 'float' | 'integer';
}

/** How a weight wants its input: which rotation, and float or which integers. Weights that want the same share one buffer. */
interface InputWish {
  readonly hadamardBlock: number;
  readonly bits: 4 | 8 | 16;
  readonly granularity: ActivationGranularity;
  readonly groupSize: number;
}

/** Writes one forward pass of `model` down in `mode`. Programs of all modes share the model's weights. @throws ConfigError when the mode doesn't fit the weights. */
export function recordProgram(model: ResidentModel, options: ProgramOptions): Program {
  assertModeFits(model, options.mode);
  return new ProgramBuilder(model, options).record();
}

class ProgramBuilder {
  private readonly buffers: BufferSpec[] = [];
  private readonly bufferOfKey = new Map<string, BufferIndex>();
  private readonly ops: Op[] = [];
  private readonly granularity: ActivationGranularity;

  constructor(
    private readonly model: ResidentModel,
    private readonly options: ProgramOptions,
  ) {
    this.granularity = options.granularity ?? 'group';
  }

  record(): Program {
    const { hiddenSize } = this.model.config;
    const residual = this.buffer('residual', { kind: 'float', width: hiddenSize, wide: true });
    this.ops.push({ op: 'embedding', table: this.model.embedding, output: residual });
    let delta: BufferIndex | undefined;
    this.model.layers.forEach((layer, index) => {
      const attended = this.attention(layer, index, residual, delta);
      delta = this.mlp(layer, residual, attended);
    });
    const logits = this.head(residual, delta);
    const { mode } = this.options;
    const scales = activationBits(mode) === 16 ? '' : ` (a scale per ${this.granularity})`;
    return { name: `${mode}${scales}`, buffers: this.buffers, ops: this.ops, logits };
  }

  /** residual += delta; returns o(attention(norm(residual))), still to be added. */
  private attention(layer: ResidentLayer, index: number, residual: BufferIndex, delta?: BufferIndex): BufferIndex {
    const { config } = this.model;
    const { numHeads, numKvHeads, headDim, rmsNormEps } = config;
    const heads = { layer: index, numHeads, numKvHeads, headDim };
    const qkv = this.buffer('qkv', { kind: 'float', width: (numHeads + 2 * numKvHeads) * headDim });
    this.normedLinears(residual, delta, layer.attentionNorm, layer.qkv, qkv);
    this.ops.push({
      op: 'ropeKvWrite',
      qkv,
      ...heads,
      inverseFrequencies: this.model.inverseFrequencies,
      attentionFactor: this.model.ropeAttentionFactor,
      ...(layer.qNorm ? { qNorm: layer.qNorm } : {}),
      ...(layer.kNorm ? { kNorm: layer.kNorm } : {}),
      eps: rmsNormEps,
    });
    const input = this.wishedOutput('attended', numHeads * headDim, this.wish(layer.o.format));
    const scale = headDim ** -0.5;
    this.ops.push({ op: 'attention', qkv, ...heads, scale, slidingWindow: layer.slidingWindow, ...input });
    return this.linearTo('delta', config.hiddenSize, layer.o, input.output);
  }

  /** residual += delta; returns down(silu(gate) · up), still to be added. */
  private mlp(layer: ResidentLayer, residual: BufferIndex, delta: BufferIndex): BufferIndex {
    const { hiddenSize, intermediateSize: width } = this.model.config;
    const gateUp = this.buffer('gateUp', { kind: 'float', width: 2 * width });
    this.normedLinears(residual, delta, layer.mlpNorm, layer.gateUp, gateUp);
    const input = this.wishedOutput('activated', width, this.wish(layer.down.format));
    this.ops.push({ op: 'siluMul', input: gateUp, width, ...input });
    return this.linearTo('delta', hiddenSize, layer.down, input.output);
  }

  /** Only rows whose logits are wanted go through the final norm and the head. */
  private head(residual: BufferIndex, delta: BufferIndex | undefined): BufferIndex {
    const { hiddenSize, vocabSize } = this.model.config;
    const last = this.buffer('lastResidual', { kind: 'float', width: hiddenSize, wide: true });
    this.ops.push({ op: 'gatherRows', input: residual, output: last });
    let lastDelta: BufferIndex | undefined;
    if (delta !== undefined) {
      lastDelta = this.buffer('lastDelta', { kind: 'float', width: hiddenSize });
      this.ops.push({ op: 'gatherRows', input: delta, output: lastDelta });
    }
    const logits = this.buffer('logits', { kind: 'float', width: vocabSize, wide: true });
    this.normedLinears(last, lastDelta, this.model.finalNorm, [this.model.head], logits, true);
    return logits;
  }

  /** residual += delta, norm, then every linear into its columns of `output`. One norm serves inputs of different wishes. */
  private normedLinears(
    residual: BufferIndex,
    delta: BufferIndex | undefined,
    weight: ResidentLayer['attentionNorm'],
    linears: readonly ResidentLinear[],
    output: BufferIndex,
    isHead = false,
  ): void {
    const name = isHead ? 'headInput' : 'normed';
    const wishes = linears.map((linear) => (isHead ? this.headWish(linear.format) : this.wish(linear.format)));
    const distinct = new Map(wishes.map((wish) => [wishKey(wish), wish]));
    const width = this.model.config.hiddenSize;
    const norm = { op: 'rmsNorm', input: residual, weight, eps: this.model.config.rmsNormEps } as const;
    const withDelta = delta === undefined ? norm : { ...norm, delta };
    if (distinct.size === 1) {
      this.ops.push({ ...withDelta, ...this.wishedOutput(name, width, wishes[0]!) });
    } else {
      const plain = this.wishedOutput(name, width, { ...PLAIN, granularity: this.granularity });
      this.ops.push({ ...withDelta, ...plain });
      for (const wish of distinct.values()) {
        const wished = this.wishedOutput(name, width, wish);
        if (wished.output !== plain.output) this.ops.push({ op: 'transform', input: plain.output, ...wished });
      }
    }
    linears.forEach((linear, i) => {
      this.linear(linear, this.wishedOutput(name, width, wishes[i]!).output, output, isHead);
    });
  }

  private linearTo(name: string, width: number, linear: ResidentLinear, input: BufferIndex): BufferIndex {
    const output = this.buffer(name, { kind: 'float', width });
    this.linear(linear, input, output, false);
    return output;
  }

  private linear(linear: ResidentLinear, input: BufferIndex, output: BufferIndex, isHead: boolean): void {
    const plane = isHead ? this.headPlane(linear.format) : this.plane(linear.format);
    const { weight, outputColumn, bias } = linear;
    this.ops.push({ op: 'linear', weight, plane, input, output, outputColumn, ...(bias ? { bias } : {}) });
  }

  /** A 4-bit mode reads the 4-bit plane of a nested weight. */
  private plane(format: WeightFormat): WeightPlane {
    return format.kind === 'nested8' && this.options.mode.startsWith('w4') ? 'hi' : 'full';
  }

  private headPlane(format: WeightFormat): WeightPlane {
    return this.hasIntegerHead(format) ? this.plane(format) : 'full';
  }

  private wish(format: WeightFormat): InputWish {
    const bits = isQuantized(format) ? activationBits(this.options.mode) : 16;
    return inputWish(format, bits, this.granularity);
  }

  private headWish(format: WeightFormat): InputWish {
    return inputWish(format, this.hasIntegerHead(format) ? 8 : 16, this.granularity);
  }

  private hasIntegerHead(format: WeightFormat): boolean {
    const isDraft = activationBits(this.options.mode) !== 16;
    return isDraft && this.options.headArithmetic === 'integer' && isQuantized(format);
  }

  private wishedOutput(name: string, width: number, wish: InputWish): RowOutput {
    const { hadamardBlock, bits, granularity, groupSize } = wish;
    const spec: BufferSpec =
      bits === 16 ? { kind: 'float', width } : { kind: 'quantized', width, bits, granularity, groupSize };
    return { output: this.buffer(`${name} ${wishKey(wish)}`, spec), hadamardBlock };
  }

  private buffer(key: string, spec: BufferSpec): BufferIndex {
    const known = this.bufferOfKey.get(key);
    if (known !== undefined) return known;
    this.bufferOfKey.set(key, this.buffers.length);
    return this.buffers.push(spec) - 1;
  }
}

const PLAIN = { hadamardBlock: 0, bits: 16, groupSize: 0 } as const;

function inputWish(format: WeightFormat, bits: 4 | 8 | 16, granularity: ActivationGranularity): InputWish {
  if (!isQuantized(format)) return { ...PLAIN, granularity };
  // A float input doesn't depend on the group size, so weights of different groups may share it.
  const groupSize = bits === 16 ? 0 : format.groupSize;
  return { hadamardBlock: inputHadamardBlock(format), bits, granularity, groupSize };
}

function wishKey(wish: InputWish): string {
  return `${wish.hadamardBlock}/${wish.bits}/${wish.granularity}/${wish.groupSize}`;
}
