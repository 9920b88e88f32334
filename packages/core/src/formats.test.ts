import { describe, expect, it } from 'vitest';
import {
  activationBits,
  CheckpointError,
  isTargetMode,
  kvBytesPerToken,
  QSpecError,
  sameFormat,
  weightBytes,
} from './index.js';

const int4 = { kind: 'int4', groupSize: 128, hadamardBlock: 0 } as const;
const nested = { kind: 'nested8', groupSize: 128, hadamardBlock: 0, radix: 12 } as const;

describe('weight formats', () => {
  it('count what one pass reads: a nested draft half the codes of its target', () => {
    expect(weightBytes(int4, 256, 1024, 'full')).toBe((256 * 1024) / 2 + (256 * 1024 * 2) / 128);
    expect(weightBytes(nested, 256, 1024, 'hi')).toBe(weightBytes(int4, 256, 1024, 'full'));
    expect(weightBytes(nested, 256, 1024, 'full')).toBe(256 * 1024 + (256 * 1024 * 2) / 128);
    expect(weightBytes({ kind: 'dense', dtype: 'bf16' }, 2, 3, 'full')).toBe(12);
  });

  it('are the same only when every property is', () => {
    expect(sameFormat(nested, { ...nested })).toBe(true);
    expect(sameFormat(nested, { ...nested, radix: 8 })).toBe(false);
    expect(sameFormat(int4, { ...int4, hadamardBlock: 64 })).toBe(false);
    expect(sameFormat(int4, nested)).toBe(false);
    expect(sameFormat({ kind: 'dense', dtype: 'bf16' }, { kind: 'dense', dtype: 'f32' })).toBe(false);
  });
});

describe('modes and caches', () => {
  it('call 16-bit activations a target', () => {
    expect((['w16a16', 'w8a16', 'w4a16', 'w4a8', 'w4a4'] as const).map(isTargetMode)).toEqual([
      true,
      true,
      true,
      false,
      false,
    ]);
    expect(activationBits('w4a8')).toBe(8);
  });

  it('count the bytes of a token over all layers', () => {
    const shape = { numLayers: 2, numKvHeads: 3, headDim: 64 };
    expect(kvBytesPerToken({ ...shape, format: 'bf16' })).toBe(2 * 2 * 3 * 128);
    expect(kvBytesPerToken({ ...shape, format: 'int8' })).toBe(2 * 2 * 3 * 68);
  });
});

describe('errors', () => {
  it('carry class, code, details and cause', () => {
    const cause = new Error('inner');
    const error = new CheckpointError('File x is truncated.', { path: 'x' }, cause);
    expect(error).toBeInstanceOf(QSpecError);
    expect([error.name, error.code, error.details['path'], error.cause]).toEqual([
      'CheckpointError',
      'CHECKPOINT',
      'x',
      cause,
    ]);
  });
});
