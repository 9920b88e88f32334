import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError, UnsupportedFormatError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { safetensorsBytes } from '../testing/safetensors-bytes.js';
import { temporaryFolder } from '../testing/temporary-folder.js';
import { readRegion } from './region.js';
import { openSafetensors } from './safetensors.js';

const entry = (begin: number, end: number, shape = [(end - begin) / 4]): object => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
});

describe('a safetensors file', () => {
  it('gives each tensor its dtype, shape and bytes', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'x.safetensors');
    const data = new Uint8Array(Float32Array.of(1, 2, 3).buffer);
    await writeFile(
      path,
      safetensorsBytes({ __metadata__: { format: 'pt' }, b: entry(4, 12, [2, 1]), a: entry(0, 4) }, data),
    );
    const { file, entries } = await openSafetensors(path);
    expect([...entries.keys()].sort()).toEqual(['a', 'b']);
    expect(entries.get('b')).toMatchObject({ dtype: 'f32', shape: [2, 1] });
    expect(new Float32Array((await readRegion(entries.get('b')!.region)).buffer)).toEqual(Float32Array.of(2, 3));
    await file.close();
  });

  const data = new Uint8Array(8);
  const bad: [string, Uint8Array, RegExp][] = [
    ['is shorter than its length word', new Uint8Array(5), /at least 8 bytes/],
    [
      'claims a header beyond its end',
      safetensorsBytes({}, data, 1000),
      /header of at most 10 bytes but it claims 1000/,
    ],
    ['claims an absurd header', safetensorsBytes({}, data, 2 ** 52), /claims 4503599627370496/],
    ['has no JSON', safetensorsBytes('{"a":', data), /hold JSON/],
    ['has a list for a header', safetensorsBytes('[1]', data), /to be an object/],
    ['is truncated', safetensorsBytes({ a: entry(0, 12) }, data), /`a` to end at byte \d+ .* truncated/],
    ['has bytes to spare', safetensorsBytes({ a: entry(0, 4) }, data), /take all 8 bytes/],
    ['has overlapping tensors', safetensorsBytes({ a: entry(0, 8), b: entry(4, 8) }, data), /`b`.*overlap/],
    ['has a gap', safetensorsBytes({ a: entry(4, 8) }, data), /`a`.*gap/],
    ['has a shape that does not fit the bytes', safetensorsBytes({ a: entry(0, 8, [3]) }, data), /`a`.*take 12 bytes/],
    ['has a negative size', safetensorsBytes({ a: entry(0, 8, [-2, -1]) }, data), /`shape` of tensor `a`/],
    ['has sizes whose product overflows', safetensorsBytes({ a: entry(0, 8, [2 ** 40, 2 ** 40]) }, data), /`a`/],
    ['has offsets the wrong way round', safetensorsBytes({ a: entry(8, 0, [2]) }, data), /`a`/],
    [
      'has half offsets',
      safetensorsBytes({ a: { dtype: 'F32', shape: [2], data_offsets: [0.5, 8.5] } }, data),
      /data_offsets/,
    ],
    [
      'has a tensor twice',
      safetensorsBytes(
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\\u0061":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        data,
      ),
      /`a` twice/,
    ],
  ];
  it.each(bad)('that %s is a CheckpointError', async (_, bytes, message) => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'x.safetensors');
    await writeFile(path, bytes);
    const error: unknown = await openSafetensors(path).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(message);
    expect(String(error)).toContain(path);
  });

  it('with an element type that nobody knows is unsupported, naming tensor and type', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'x.safetensors');
    await writeFile(path, safetensorsBytes({ a: { dtype: 'F8_E4M3', shape: [8], data_offsets: [0, 8] } }, data));
    const error: unknown = await openSafetensors(path).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(UnsupportedFormatError);
    expect(String(error)).toMatch(/`a`.*F8_E4M3/);
  });
});
