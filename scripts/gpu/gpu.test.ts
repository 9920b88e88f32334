import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { takeFlag, takeOption } from './arguments.mjs';
import { benchmarksOf } from './programs/bench.mjs';
import { countsOf, runChild } from './programs/child.mjs';
import { appendRow } from './programs/csv.mjs';
import { describeDifference, firstDifference, numSame } from './programs/exactness/compare.mjs';

const folder = mkdtempSync(join(tmpdir(), 'qspec-gpu-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const result = (...samples: number[][]) => ({ completions: samples.map((tokenIds) => ({ tokenIds })) });

describe('comparing texts', () => {
  it('finds the first token that differs, in any sample', () => {
    const expected = [result([1, 2, 3]), result([4], [5, 6])];
    expect(firstDifference(expected, structuredClone(expected))).toBeUndefined();
    const difference = firstDifference(expected, [result([1, 2, 3]), result([4], [5, 7])]);
    expect(describeDifference(difference)).toBe('request 1, sample 1, token 1: expected 6, received 7');
  });

  it('takes a text that goes on, ends early or is missing for a difference', () => {
    const longer = firstDifference([result([1])], [result([1, 2])]);
    expect(describeDifference(longer)).toBe('request 0, token 1: expected the end, received 2');
    expect(firstDifference([result([1, 2])], [result([1])])).toMatchObject({ token: 1, expected: 2 });
    expect(firstDifference([result([1])], [])).toMatchObject({ request: 0, token: 0 });
    expect(numSame([result([1]), result([2])], [result([1]), result([3])])).toBe(1);
  });
});

describe('test programs', () => {
  it('are counted by their last line, a bad end as one failure more', () => {
    expect(countsOf({ status: 0, tail: 'ok a\n12 passed, 0 failed\n' })).toEqual({ passed: 12, failed: 0 });
    expect(countsOf({ status: 1, tail: '3 passed, 2 failed\n' })).toEqual({ passed: 3, failed: 2 });
    expect(countsOf({ status: 1, tail: '3 passed, 0 failed\n' })).toEqual({ passed: 3, failed: 1 });
    expect(countsOf({ status: null, tail: 'ok a\n' })).toEqual({ passed: 0, failed: 1 });
    expect(countsOf({ status: 0, tail: '0 passed, 0 failed\n' })).toEqual({ passed: 0, failed: 1 });
  });

  it('may be missing or be killed: that is said', async () => {
    expect(await runChild(join(folder, 'nowhere'), [])).toMatchObject({ status: undefined, code: 'ENOENT' });
    const killed = await runChild(process.execPath, ['-e', 'process.kill(process.pid, "SIGKILL")']);
    expect(killed.problem).toMatch(/ended by SIGKILL/);
  });
});

describe('benchmarks', () => {
  it('are those that were asked for, and without a GPU the one that needs none', () => {
    const all = ['native', 'engine', 'ops', 'tally', 'pytorch'];
    expect(benchmarksOf({ only: all, device: 'cuda' })).toEqual(['ops', 'native', 'tally', 'pytorch']);
    expect(benchmarksOf({ only: ['ops'], device: 'cuda' })).toEqual(['ops']);
    expect(benchmarksOf({ only: all, device: 'cpu' })).toEqual(['tally']);
  });
});

describe('rows and arguments', () => {
  it('writes the header once, quotes commas and leaves missing values empty', () => {
    const path = join(folder, 'rows.csv');
    appendRow(path, ['device', 'ms', 'note'], { device: 'a, "b"', ms: 1.5 });
    appendRow(path, ['device', 'ms', 'note'], { device: 'c', ms: 2, note: 'x' });
    expect(readFileSync(path, 'utf8')).toBe('device,ms,note\n"a, ""b""",1.5,\nc,2,x\n');
  });

  it('names a prebuilt folder that is not there, and builds nothing', () => {
    const missing = join(folder, 'nowhere'),
      script = fileURLToPath(new URL('../gpu.mjs', import.meta.url));
    const { status, stderr } = spawnSync(process.execPath, [script, 'test', '--prebuilt', missing], {
      encoding: 'utf8',
    });
    expect(status).toBe(1);
    expect(stderr).toContain(`${missing} does not exist`);
  });

  it('takes its own options out and leaves the others', () => {
    const args = ['--out', 'x.csv', '--prebuilt', 'folder', '--no-build', '--int4'];
    expect([takeOption(args, '--prebuilt'), takeFlag(args, '--no-build'), takeFlag(args, '--nothing')]).toEqual([
      'folder',
      true,
      false,
    ]);
    expect(args).toEqual(['--out', 'x.csv', '--int4']);
  });
});
