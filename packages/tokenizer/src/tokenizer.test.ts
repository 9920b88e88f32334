import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CheckpointError, ConfigError, UnsupportedFormatError } from '@qspec/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { folderOf } from '../testing/support.js';
import { Tokenizer } from './tokenizer.js';

let tokenizer: Tokenizer;
let folder: string;
let json: { model: Record<string, unknown>; [field: string]: unknown };

beforeAll(async () => {
  tokenizer = await Tokenizer.fromFolder(folderOf('tally-10m'));
  folder = await mkdtemp(join(tmpdir(), 'qspec-tokenizer-'));
  json = JSON.parse(await readFile(join(folderOf('tally-10m'), 'tokenizer.json'), 'utf8'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('Tokenizer', () => {
  it('knows its vocabulary and special tokens', () => {
    expect(tokenizer.vocabSize).toBe(884);
    expect(tokenizer.bosTokenId).toBe(tokenizer.tokenToId('<|begin|>'));
    expect(tokenizer.eosTokenIds).toEqual([tokenizer.tokenToId('<|end|>')]);
    expect(tokenizer.idToToken(tokenizer.eosTokenIds[0] as number)).toBe('<|end|>');
    expect(tokenizer.specialTokenIds).toEqual([0, 1, 2, 3, 4]);
    expect(tokenizer.tokenToId('no such token')).toBeUndefined();
    expect(tokenizer.idToToken(884)).toBeUndefined();
  });

  it('encodes an empty text and decodes an empty list', async () => {
    expect(await tokenizer.encode('')).toEqual(new Int32Array());
    expect(tokenizer.encodeSync('')).toEqual(new Int32Array());
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.createDetokenizer().flush()).toBe('');
  });

  it('takes a lone surrogate as U+FFFD', () => {
    expect(tokenizer.decode(tokenizer.encodeSync('a\ud800b'))).toBe('a\ufffdb');
  });

  it('skips ids that are not in the vocabulary', () => {
    const ids = [...tokenizer.encodeSync('hi'), 99_999, -1];
    expect(tokenizer.decode(ids)).toBe('hi');
  });

  it('holds back an unfinished character and reports it at the end', () => {
    const [first] = tokenizer.encodeSync('👍');
    const detokenizer = tokenizer.createDetokenizer();
    expect(detokenizer.push(first as number)).toBe('');
    expect(detokenizer.flush()).toBe('\ufffd');
  });

  it('merges end-of-sequence ids of both files', async () => {
    const merged = await Tokenizer.fromFiles({
      tokenizerJson: json,
      tokenizerConfig: { eos_token: { content: '<|end|>' } },
      generationConfig: { eos_token_id: [4, 1] },
    });
    expect(merged.eosTokenIds).toEqual([4, 1]);
    expect(merged.hasChatTemplate).toBe(false);
  });

  it('prefers chat_template.jinja of the folder', async () => {
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(json));
    await writeFile(join(folder, 'chat_template.jinja'), '{{ messages[0].content | upper }}');
    const loaded = await Tokenizer.fromFolder(folder);
    expect(loaded.renderChat([{ role: 'user', content: 'hi' }])).toBe('HI');
  });
});

describe('the native back end', () => {
  it('gives the ids of the JavaScript one', async () => {
    const native = await Tokenizer.fromFolder(folderOf('tally-10m'), { backend: 'native' });
    const text = 'If 12 apples cost 30, what do 7 cost? 你好 👍🏽\n'.repeat(200);
    expect(await native.encode(text)).toEqual(await tokenizer.encode(text));
  });
});

describe('bad input', () => {
  const load = (change: object) => Tokenizer.fromFiles({ tokenizerJson: { ...json, ...change }, source: 'model' });

  it('names the file of malformed JSON', async () => {
    await expect(Tokenizer.fromFiles({ tokenizerJson: '{"model": ', source: 'model' })).rejects.toThrow(
      CheckpointError,
    );
    await expect(Tokenizer.fromFiles({ tokenizerJson: '{"model": ', source: 'model' })).rejects.toThrow(
      /model\/tokenizer\.json/,
    );
    await expect(Tokenizer.fromFiles({ tokenizerJson: json, tokenizerConfig: 'x' })).rejects.toThrow(
      /tokenizer_config\.json/,
    );
  });

  it('names a missing tokenizer.json', async () => {
    await expect(Tokenizer.fromFolder(join(folder, 'none'))).rejects.toThrow(/tokenizer\.json/);
  });

  it.each([
    ['model type', { model: { type: 'Quantum', vocab: { a: 0 } } }, /Quantum/],
    ['decoder type', { decoder: { type: 'Nonsense' } }, /Nonsense/],
    ['pre-tokenizer type', { pre_tokenizer: { type: 'Nonsense' } }, /Nonsense/],
    ['normalizer type', { normalizer: { type: 'Nonsense' } }, /Nonsense/],
    ['post-processor type', { post_processor: { type: 'Nonsense' } }, /Nonsense/],
  ])('names an unknown %s', async (_, change, message) => {
    await expect(load(change)).rejects.toThrow(UnsupportedFormatError);
    await expect(load(change)).rejects.toThrow(message);
  });

  it.each([
    ['model', { model: null }],
    ['model.vocab', { model: { type: 'BPE', merges: [] } }],
    ['model.merges', { model: { type: 'BPE', vocab: { a: 0 } } }],
    ['decoder', { decoder: 'x' }],
    ['added_tokens', { added_tokens: [{ id: 'x' }] }],
  ])('names a malformed %s', async (field, change) => {
    await expect(load(change)).rejects.toThrow(CheckpointError);
    await expect(load(change)).rejects.toThrow(field);
  });

  it('rejects what is not text, an unknown back end, and chats without a template or messages', async () => {
    await expect(tokenizer.encode(undefined as never)).rejects.toThrow(ConfigError);
    await expect(Tokenizer.fromFolder(folderOf('tally-10m'), { backend: 'gpu' as never })).rejects.toThrow(/"gpu"/);
    const bare = await Tokenizer.fromFiles({ tokenizerJson: json });
    expect(() => bare.renderChat([{ role: 'user', content: 'hi' }])).toThrow(/chat template/);
    expect(() => tokenizer.renderChat([])).toThrow(/messages/);
  });

  it('names a chat template that cannot be parsed, and passes on what a template rejects', async () => {
    await expect(Tokenizer.fromFiles({ tokenizerJson: json, chatTemplate: '{% for %}' })).rejects.toThrow(
      CheckpointError,
    );
    const strict = await Tokenizer.fromFiles({
      tokenizerJson: json,
      chatTemplate: "{{ raise_exception('roles must alternate') }}",
    });
    expect(() => strict.renderChat([{ role: 'user', content: 'hi' }])).toThrow(/roles must alternate/);
  });
});
