import { ConfigError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { expectFormatFits, formatFor, type Recipe, resolveRecipe } from './recipe.js';

describe('resolveRecipe', () => {
  it('fills in defaults', () => {
    expect(resolveRecipe()).toEqual({
      scheme: 'w4',
      groupSize: 128,
      hadamardBlock: 0,
      radix: 12,
      head: 'keep',
      embeddings: 'keep',
      headGroupSize: 128,
      clipSearch: 'fast',
      rounding: 'rtn',
    });
  });

  it('gives the head the group size of the layers', () => {
    expect(resolveRecipe({ groupSize: 32 }).headGroupSize).toBe(32);
    expect(resolveRecipe({ groupSize: 32, headGroupSize: 64 }).headGroupSize).toBe(64);
  });

  it.each([
    [{ scheme: 'w3' }, 'scheme'],
    [{ groupSize: 96 }, 'groupSize'],
    [{ groupSize: 0 }, 'groupSize'],
    [{ headGroupSize: 16 }, 'headGroupSize'],
    [{ hadamardBlock: 48 }, 'hadamardBlock'],
    [{ hadamardBlock: 1 }, 'hadamardBlock'],
    [{ hadamardBlock: Number.NaN }, 'hadamardBlock'],
    [{ radix: 7 }, 'radix'],
    [{ radix: 16 }, 'radix'],
    [{ radix: 12.5 }, 'radix'],
    [{ head: 'w4' }, 'head'],
    [{ embeddings: true }, 'embeddings'],
    [{ clipSearch: 'maximal' }, 'clipSearch'],
    [{ rounding: 'gptq' }, 'rounding'],
    [{ rounding: 'toString' }, 'rounding'],
    [{ gruopSize: 64 }, 'gruopSize'],
    [null, 'recipe'],
  ])('refuses %j and names the option', (recipe, option) => {
    const error = catchError(() => resolveRecipe(recipe as unknown as Recipe));
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toContain(`${option}\``);
    expect((error as ConfigError).details['option']).toBe(option);
  });
});

describe('formatFor', () => {
  it('nests a tied matrix as soon as head or embeddings are', () => {
    const nested = { kind: 'nested8', groupSize: 128, hadamardBlock: 0, radix: 12 };
    expect(formatFor(resolveRecipe({ head: 'nested8' }), 'tiedEmbedding')).toEqual(nested);
    expect(formatFor(resolveRecipe({ embeddings: 'nested8' }), 'tiedEmbedding')).toEqual(nested);
    expect(formatFor(resolveRecipe(), 'tiedEmbedding')).toBeUndefined();
  });

  it('keeps head and embeddings apart where they are two matrices', () => {
    const recipe = resolveRecipe({ head: 'nested8' });
    expect(formatFor(recipe, 'head')?.kind).toBe('nested8');
    expect(formatFor(recipe, 'embedding')).toBeUndefined();
  });
});

describe('expectFormatFits', () => {
  it('names tensor, K, group size and the sizes that fit', () => {
    const error = catchError(() =>
      expectFormatFits('layers.0.q_proj', 576, { kind: 'int4', groupSize: 128, hadamardBlock: 0 }),
    );
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toBe(
      'Expected `groupSize` to divide K = 576 of `layers.0.q_proj` but received 128. Group sizes that do: 32, 64.',
    );
  });

  it('says so when no group size fits', () => {
    expect(() => expectFormatFits('w', 100, { kind: 'int4', groupSize: 32, hadamardBlock: 0 })).toThrow('cannot be');
  });

  it('names the largest Hadamard block that fits', () => {
    expect(() => expectFormatFits('w', 576, { kind: 'int4', groupSize: 64, hadamardBlock: 128 })).toThrow(
      'largest block for this tensor is 64',
    );
  });
});

function catchError(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error('Expected an error.');
}
