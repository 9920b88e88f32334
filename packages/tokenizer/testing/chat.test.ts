import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type ChatMessage, Tokenizer } from '../src/index.js';
import { folderOf, readVector } from './support.js';

interface ChatVectors {
  now: string;
  chats: Record<string, { messages: ChatMessage[]; tools?: object[]; add_generation_prompt: boolean }>;
  templates: Record<string, string>;
  rendered: Record<string, Record<string, string>>;
}

const vectors = readVector<ChatVectors>('chat.json');
const smallJson = readFileSync(join(folderOf('tally-10m'), 'tokenizer.json'), 'utf8');

/** Templates need no vocabulary: a small one keeps the test quick. */
function withTemplateOf(name: string): Promise<Tokenizer> {
  const written = vectors.templates[name];
  const tokenizerConfig = written
    ? { chat_template: written, bos_token: '<s>', eos_token: '</s>' }
    : readFileSync(join(folderOf(name), 'tokenizer_config.json'), 'utf8');
  return Tokenizer.fromFiles({ tokenizerJson: smallJson, tokenizerConfig });
}

describe.each(Object.keys(vectors.rendered))('chat template of %s against transformers', (name) => {
  it.each(Object.keys(vectors.chats))('renders %s', async (chat) => {
    const tokenizer = await withTemplateOf(name);
    const {
      messages,
      tools,
      add_generation_prompt: addGenerationPrompt,
    } = vectors.chats[chat] as ChatVectors['chats'][string];
    const rendered = tokenizer.renderChat(messages, {
      addGenerationPrompt,
      now: new Date(vectors.now),
      ...(tools ? { tools } : {}),
    });
    expect(rendered).toBe(vectors.rendered[name]?.[chat]);
  });
});

describe('encodeChat', () => {
  it('adds no special tokens to those that the template writes', async () => {
    const tokenizer = await Tokenizer.fromFolder(folderOf('tally-10m'));
    const ids = await tokenizer.encodeChat([{ role: 'user', content: 'hi' }], { addGenerationPrompt: true });
    expect([...ids].filter((id) => id === tokenizer.bosTokenId)).toHaveLength(1);
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe('<|begin|><|user|>hi<|end|><|assistant|>');
  });
});
