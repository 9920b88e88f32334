import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CheckpointError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { finalAnswer, isCorrect, readProblems } from './problems.js';

describe('problems', () => {
  it('takes the part after the last marker as the answer', () => {
    expect(finalAnswer('1 #### 2 #### 3 ')).toBe('3');
    expect(finalAnswer('no marker')).toBeUndefined();
  });

  it('compares final answers, not the way to them', () => {
    const problem = { question: 'q', answer: 'a + b. #### 12' };
    expect(isCorrect('something else #### 12', problem)).toBe(true);
    expect(isCorrect('#### 13', problem)).toBe(false);
    expect(isCorrect('12', problem)).toBe(false);
  });

  it('reads the first lines of a file and names a broken one', async () => {
    const path = join(await mkdtemp(join(tmpdir(), 'qspec-')), 'p.jsonl');
    await writeFile(path, '{"question":"a","answer":"#### 1"}\n{"question":"b","answer":"#### 2"}\n{"question":3}\n');
    expect(await readProblems(path, 2)).toHaveLength(2);
    await expect(readProblems(path)).rejects.toThrow(CheckpointError);
    await expect(readProblems(path)).rejects.toThrow(/p\.jsonl:3/);
    await expect(readProblems(`${path}.missing`)).rejects.toThrow(/Could not read/);
  });
});
