import { UnsupportedFormatError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { defaultKvBytes, expectKvFormat } from './device-limits.js';

describe('KV formats of devices', () => {
  it('takes those that a device has kernels for', () => {
    for (const format of ['f32', 'bf16', 'int8'] as const) expectKvFormat('cpu', format);
    for (const format of ['bf16', 'int8', 'int8-nested'] as const) expectKvFormat('cuda', format);
  });

  it.each([
    ['cuda', 'f32', /`kvFormat` to be one of bf16, int8, int8-nested on cuda but received f32: choose bf16/],
    ['cpu', 'int8-nested', /`kvFormat` to be one of f32, bf16, int8 on cpu but received int8-nested: choose int8/],
    ['reference', 'int8-nested', /on reference but received int8-nested/],
  ] as const)('refuses on %s a cache of %s, naming the option', (backend, format, sentence) => {
    expect(() => expectKvFormat(backend, format)).toThrow(UnsupportedFormatError);
    expect(() => expectKvFormat(backend, format)).toThrow(sentence);
  });
});

it('caps the default pool in the system’s memory only', () => {
  expect(defaultKvBytes('cpu')).toBe(2 ** 30);
  expect(defaultKvBytes('cuda')).toBe(Number.POSITIVE_INFINITY);
});
