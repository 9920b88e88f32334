import {
  ConfigError,
  type LinearOp,
  type Program,
  sameFormat,
  type VectorHandle,
  type WeightFormat,
  type WeightHandle,
} from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { FAKE_CONFIG } from '../testing/fake-model.js';
import { recordProgram } from './program-builder.js';
import type { ResidentLayer, ResidentLinear, ResidentModel } from './resident-model.js';

const INT4 = { kind: 'int4', groupSize: 32, hadamardBlock: 0 } as const;
const ROTATED = { kind: 'int4', groupSize: 32, hadamardBlock: 32 } as const;
const NESTED = { kind: 'nested8', groupSize: 32, hadamardBlock: 32, radix: 12 } as const;
const DENSE = { kind: 'dense', dtype: 'bf16' } as const;

const vector = () => ({}) as VectorHandle;
const linear = (format: WeightFormat, outputColumn = 0): ResidentLinear => ({
  weight: {} as WeightHandle,
  format,
  outputColumn,
});

function model(
  format: WeightFormat,
  options: { k?: WeightFormat; head?: WeightFormat; numLayers?: number } = {},
): ResidentModel {
  const layer = (): ResidentLayer => ({
    attentionNorm: vector(),
    qkv: options.k ? [linear(format), linear(options.k, 32), linear(format, 64)] : [linear(format)],
    o: linear(format),
    mlpNorm: vector(),
    gateUp: [linear(format)],
    down: linear(format),
    slidingWindow: 0,
  });
  return {
    config: FAKE_CONFIG,
    embedding: {} as WeightHandle,
    layers: Array.from({ length: options.numLayers ?? 1 }, layer),
    finalNorm: vector(),
    head: linear(options.head ?? DENSE),
    inverseFrequencies: vector(),
    ropeAttentionFactor: 1,
  };
}

const linears = (program: Program) => program.ops.filter((op): op is LinearOp => op.op === 'linear');
const inputOf = (program: Program, op: LinearOp) => program.buffers[op.input]!;

describe('recordProgram', () => {
  it('writes a dense layer down as nine ops, fused where the op set allows, and the head over the wanted rows', () => {
    const { ops } = recordProgram(model(DENSE), { mode: 'w16a16' });
    expect(ops.map((op) => op.op)).toEqual([
      'embedding',
      ...['rmsNorm', 'linear', 'ropeKvWrite', 'attention', 'linear'],
      ...['rmsNorm', 'linear', 'siluMul', 'linear'],
      ...['gatherRows', 'gatherRows', 'rmsNorm', 'linear'],
    ]);
  });

  it('adds each residual exactly once, in the norm that follows', () => {
    const { ops } = recordProgram(model(DENSE, { numLayers: 3 }), { mode: 'w16a16' });
    const norms = ops.flatMap((op) => (op.op === 'rmsNorm' ? [op] : []));
    expect(norms.map((norm) => norm.delta !== undefined)).toEqual([false, true, true, true, true, true, true]);
  });

  it('uses a bounded number of buffers however many layers there are', () => {
    const count = (numLayers: number) => recordProgram(model(ROTATED, { numLayers }), { mode: 'w4a4' }).buffers.length;
    expect(count(12)).toBe(count(1));
  });

  it('serves every mode from the same weights', () => {
    const resident = model(NESTED, { head: NESTED });
    const weights = (mode: 'w8a16' | 'w4a8') => linears(recordProgram(resident, { mode })).map((op) => op.weight);
    expect(weights('w8a16')).toEqual(weights('w4a8'));
    for (const [i, weight] of weights('w8a16').entries()) expect(weights('w4a8')[i]).toBe(weight);
  });

  it('reads the high plane of nested weights in 4-bit modes only, never in the head', () => {
    const resident = model(NESTED, { head: NESTED });
    const planes = (mode: 'w8a16' | 'w4a16' | 'w4a8') =>
      linears(recordProgram(resident, { mode })).map((op) => op.plane);
    expect(planes('w8a16')).toEqual(['full', 'full', 'full', 'full', 'full']);
    expect(planes('w4a16')).toEqual(['hi', 'hi', 'hi', 'hi', 'full']);
    expect(planes('w4a8')).toEqual(['hi', 'hi', 'hi', 'hi', 'full']);
  });

  it('quantises the inputs of a draft with the bits and scales asked for, but not the head’s', () => {
    const program = recordProgram(model(ROTATED, { head: ROTATED }), { mode: 'w4a4', granularity: 'token' });
    const inputs = linears(program).map((op) => inputOf(program, op));
    for (const input of inputs.slice(0, 4)) {
      expect(input).toMatchObject({ kind: 'quantized', bits: 4, granularity: 'token', groupSize: 32 });
    }
    expect(inputs[4]).toMatchObject({ kind: 'float' });
  });

  it('lets the head of a draft be cheap when asked to', () => {
    const program = recordProgram(model(NESTED, { head: NESTED }), { mode: 'w4a4', headArithmetic: 'integer' });
    const head = linears(program).at(-1)!;
    expect(head.plane).toBe('hi');
    expect(inputOf(program, head)).toMatchObject({ kind: 'quantized', bits: 8 });
    const target = recordProgram(model(NESTED, { head: NESTED }), { mode: 'w8a16', headArithmetic: 'integer' });
    expect(linears(target).at(-1)!.plane).toBe('full');
  });

  it('rotates inputs by each weight’s own block, the norm once for all', () => {
    const program = recordProgram(model(ROTATED, { k: INT4 }), { mode: 'w4a16' });
    const qkvOps = program.ops.slice(
      1,
      program.ops.findIndex((op) => op.op === 'ropeKvWrite'),
    );
    expect(qkvOps.map((op) => op.op)).toEqual(['rmsNorm', 'transform', 'linear', 'linear', 'linear']);
    const [norm, transform, q, k, v] = qkvOps as [never, never, LinearOp, LinearOp, LinearOp];
    expect(norm).toMatchObject({ hadamardBlock: 0, output: k.input });
    expect(transform).toMatchObject({ hadamardBlock: 32, input: k.input, output: q.input });
    expect(v.input).toBe(q.input);
    expect(sameFormat(ROTATED, INT4)).toBe(false);
  });

  it('fuses rotation and quantisation into attention and SiLU·mul', () => {
    const program = recordProgram(model(ROTATED), { mode: 'w4a8' });
    for (const name of ['attention', 'siluMul'] as const) {
      const op = program.ops.find((candidate) => candidate.op === name)!;
      expect(op).toMatchObject({ hadamardBlock: 32 });
      expect(program.buffers[(op as { output: number }).output]).toMatchObject({ kind: 'quantized', bits: 8 });
    }
  });

  it('refuses modes that the weights cannot run, with the remedy', () => {
    expect(() => recordProgram(model(DENSE), { mode: 'w4a4' })).toThrow(ConfigError);
    expect(() => recordProgram(model(DENSE), { mode: 'w4a4' })).toThrow(/Quantise the checkpoint first/);
    expect(() => recordProgram(model(INT4), { mode: 'w8a16' })).toThrow(/run as w4a16, w4a8, w4a4/);
  });
});
