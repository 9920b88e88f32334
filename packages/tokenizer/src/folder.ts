import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '@qspec/core';
import { parseJsonObject } from './tokenizer-definition.js';
import type { TokenizerFiles } from './types.js';

/** Contents of a model folder's tokenizer files. @throws CheckpointError when tokenizer.json is missing or a file can't be read. */
export async function readTokenizerFolder(folder: string): Promise<TokenizerFiles> {
  const [tokenizerJson, tokenizerConfig, generationConfig, jinja, templateJson] = await Promise.all(
    [
      'tokenizer.json',
      'tokenizer_config.json',
      'generation_config.json',
      'chat_template.jinja',
      'chat_template.json',
    ].map((name) => tryRead(join(folder, name))),
  );
  if (tokenizerJson === undefined) {
    throw new CheckpointError(
      `Expected ${folder} to contain tokenizer.json but received a folder without it. Only the \`tokenizer.json\` format is read; other formats can be converted with transformers' save_pretrained.`,
      { file: join(folder, 'tokenizer.json') },
    );
  }
  const chatTemplate = jinja ?? templateField(templateJson, join(folder, 'chat_template.json'));
  return {
    source: folder,
    tokenizerJson,
    ...(tokenizerConfig === undefined ? {} : { tokenizerConfig }),
    ...(generationConfig === undefined ? {} : { generationConfig }),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
  };
}

function templateField(json: string | undefined, file: string): string | undefined {
  if (json === undefined) return undefined;
  const template = parseJsonObject(json, file).chat_template;
  return typeof template === 'string' ? template : undefined;
}

async function tryRead(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new CheckpointError(
      `Expected ${file} to be readable but received: ${(cause as Error).message}`,
      { file },
      cause,
    );
  }
}
