import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { TokenizerFiles } from './checkpoint.js';

const FILE_NAMES: Readonly<Record<keyof TokenizerFiles, string>> = {
  tokenizer: 'tokenizer.json',
  tokenizerConfig: 'tokenizer_config.json',
  chatTemplate: 'chat_template.jinja',
  generationConfig: 'generation_config.json',
  specialTokensMap: 'special_tokens_map.json',
};

export function findTokenizerFiles(folder: string): TokenizerFiles {
  const found = Object.entries(FILE_NAMES)
    .map(([key, name]) => [key, join(folder, name)] as const)
    .filter(([, path]) => existsSync(path));
  return Object.fromEntries(found);
}
