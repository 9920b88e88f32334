import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describeNative } from '@qspec/kernels';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const { cuda } = describeNative();
const TALLY = fileURLToPath(new URL('../../../models/tally-10m', import.meta.url));

/** The command as a user runs it: built, in a process of its own. */
function qspec(args: string[], input = '') {
  if (!existsSync(MAIN)) throw new Error(`Expected ${MAIN} but it is not there: run \`npm run build\` first.`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], { input, encoding: 'utf8' });
  return { status, stdout, stderr };
}

let folder: string;
let artifact: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qspec-cli-'));
  artifact = join(folder, 'nested');
  const { status, stderr } = qspec(['quantize', TALLY, artifact, '--scheme', 'nested8', '--hadamard', '128']);
  expect(stderr).toContain('100 %');
  expect(status).toBe(0);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe('qspec', () => {
  it('inspects without loading', () => {
    const { status, stdout } = qspec(['inspect', artifact, '--json']);
    expect(status).toBe(0);
    const result = JSON.parse(stdout);
    expect(result.kind).toBe('artifact');
    expect(result.tensors.some((tensor: { dtype: string }) => tensor.dtype === 'nested8')).toBe(true);
  });

  it('generates the same text with and without a draft, as text and as JSON', () => {
    const prompt = ['--chat', '-p', 'Ravi has 381 apples. Ravi buys 24 more. How many apples are there now?'];
    const plain = qspec(['generate', artifact, ...prompt, '--draft', 'none']);
    const drafted = qspec(['generate', artifact, ...prompt, '--draft', 'w4a8', '--gamma', '4', '--json']);
    expect(plain.status).toBe(0);
    const result = JSON.parse(drafted.stdout);
    expect(`${result.text}\n`).toBe(plain.stdout);
    expect(result.speculation.proposedTokens).toBeGreaterThan(0);
    expect(plain.stdout).not.toContain('\x1b');
  });

  it('reads a prompt from standard input', () => {
    const { status, stdout } = qspec(
      ['generate', artifact, '--chat', '-n', '8'],
      'Ravi has 381 apples. Ravi buys 24 more. How many are there?',
    );
    expect(status).toBe(0);
    expect(stdout.length).toBeGreaterThan(1);
  });

  it('chats line by line, forgets and leaves', () => {
    const { status, stderr } = qspec(['chat', artifact, '-n', '8'], 'Add 3 and 4.\n/reset\nAdd 1 and 1.\n/exit\n');
    expect(status).toBe(0);
    expect(stderr.match(/tokens\/s/g)).toHaveLength(2);
    expect(stderr).toContain('(forgotten)');
  });

  it('evaluates problems plain and speculative, token for token', () => {
    const { status, stdout } = qspec([
      'eval',
      artifact,
      '--problems',
      join(TALLY, 'heldout.jsonl'),
      '--limit',
      '8',
      '--json',
    ]);
    expect(status).toBe(0);
    const { problems } = JSON.parse(stdout);
    expect(problems.identical).toBe(8);
    expect(problems.plain.numCorrect).toBe(problems.speculative.numCorrect);
  });

  it('measures perplexity', async () => {
    const text = join(folder, 'text.txt');
    await writeFile(text, 'Uma has 46 pears. Tariq has 6 times as many as Uma. '.repeat(20));
    const { status, stdout } = qspec([
      'eval',
      artifact,
      '--perplexity',
      text,
      '--window',
      '64',
      '--windows',
      '2',
      '--json',
    ]);
    expect(status).toBe(0);
    expect(JSON.parse(stdout).perplexity.numPredictions).toBe(126);
  });

  it('benches plain and speculative decoding beside the byte limit', () => {
    const { status, stdout } = qspec(['bench', artifact, '-n', '12', '--runs', '1', '--json']);
    expect(status).toBe(0);
    const result = JSON.parse(stdout);
    expect(result.samples).toHaveLength(2);
    expect(result.samples[1].isIdentical).toBe(true);
    expect(result.byteLimit.bytesPerSecond).toBeGreaterThan(1e8);
  });

  it('examines the machine', () => {
    const { status, stdout } = qspec(['doctor']);
    expect(status).toBe(0);
    expect(stdout).toMatch(/ok +native addon/);
    expect(stdout).toMatch(/cuda kernels: (built in|not in this build \(.+\): .+ `npm run build:native`)/);
    if (cuda.isBuilt) expect(stdout).toContain(`cuda device: ${cuda.name ?? cuda.problem}`);
  });

  it('shows help and refuses what it does not know', () => {
    expect(qspec(['--help']).stdout).toContain('quantize');
    expect(qspec(['fly']).status).toBe(2);
    expect(qspec(['generate', artifact, '--temperature', 'hot']).status).toBe(2);
  });
});

describe('bad input', () => {
  const generate = (model: string, ...options: string[]) => qspec(['generate', model, '-p', 'x', ...options]);

  it.each<[string, () => ReturnType<typeof qspec>, number, RegExp]>([
    ['γ < 0', () => generate(artifact, '--draft', 'w4a8', '--gamma', '-1'), 2, /`gamma`.*-1/],
    ['NaN temperature', () => generate(artifact, '--temperature', 'nan'), 2, /`temperature`.*NaN/],
    ['a draft of dense weights', () => generate(TALLY, '--draft', 'w4a4'), 2, /[Qq]uantise the checkpoint first/],
    [
      'a prompt longer than the context',
      () => qspec(['generate', artifact, '--context', '16'], 'x '.repeat(200)),
      2,
      /16 tokens/,
    ],
    ['no prompt', () => qspec(['generate', artifact]), 2, /--prompt/],
    ['a model that is not there', () => generate(join(folder, 'nowhere')), 1, /nowhere/],
    [
      'a group size that does not divide K',
      () => qspec(['quantize', TALLY, join(folder, 'x'), '--group-size', '96']),
      2,
      /`groupSize`.*96/,
    ],
    [
      'a rotation that does not divide K',
      () => qspec(['quantize', TALLY, join(folder, 'x'), '--hadamard', '256']),
      2,
      /`hadamardBlock`.*384/,
    ],
    ['an artifact that is there already', () => qspec(['quantize', TALLY, artifact]), 2, /overwrite/],
    [
      'a cache of another device',
      () => generate(artifact, '--device', 'cpu', '--kv', 'int8-nested'),
      1,
      /`kvFormat`.*cpu/,
    ],
  ])('%s', (_, call, status, message) => {
    const result = call();
    expect(result.stderr).toMatch(message);
    expect(result.status).toBe(status);
    expect(existsSync(join(folder, 'x'))).toBe(false);
  });

  it.skipIf(cuda.isUsable)('cuda without cuda', () => {
    const { status, stderr } = generate(artifact, '--device', 'cuda');
    expect([status, stderr]).toEqual([1, expect.stringMatching(/^DeviceError: .*(install|CPU backend)/)]);
  });

  it('a truncated shard, an unknown architecture, one flipped byte: named, nothing lost', async () => {
    const damage = async (name: string, from: string, change: (copy: string) => Promise<void>) => {
      const copy = join(folder, name);
      await cp(from, copy, { recursive: true });
      await change(copy);
      return generate(copy);
    };
    const shard = 'model-00002-of-00002.safetensors';
    const cut = await damage('cut', TALLY, (copy) => truncate(join(copy, shard), 100_000));
    expect([cut.status, cut.stderr]).toEqual([1, expect.stringContaining(shard)]);
    const alien = await damage('alien', TALLY, async (copy) => {
      const config = JSON.parse(readFileSync(join(copy, 'config.json'), 'utf8'));
      await writeFile(join(copy, 'config.json'), JSON.stringify({ ...config, architectures: ['MambaForCausalLM'] }));
    });
    expect([alien.status, alien.stderr]).toEqual([1, expect.stringContaining('MambaForCausalLM')]);
    const flipped = await damage('flipped', artifact, async (copy) => {
      const file = join(copy, (await readdir(copy)).find((name) => name.endsWith('.safetensors'))!);
      const bytes = readFileSync(file);
      const middle = bytes.length >> 1;
      bytes[middle] = bytes[middle]! ^ 1;
      await writeFile(file, bytes);
    });
    expect([flipped.status, flipped.stderr]).toEqual([1, expect.stringContaining('CheckpointError')]);
  });
});
