import { CheckpointError } from '@qspec/core';
import { parseJsonObject } from './tokenizer-definition.js';
import type { TokenizerFiles } from './types.js';

/** What tokenizer_config.json and generation_config.json say beside the pipeline itself. */
export interface TokenizerSettings {
  /** `bos_token`, `eos_token`, … as text: what chat templates may write. */
  readonly namedTokens: Readonly<Record<string, string>>;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  readonly chatTemplate: string | undefined;
}

/** @throws CheckpointError naming the file that is malformed. */
export function readSettings(
  files: TokenizerFiles,
  source: string,
  tokenToId: (token: string) => number | undefined,
): TokenizerSettings {
  const config =
    files.tokenizerConfig === undefined ? {} : parseJsonObject(files.tokenizerConfig, `${source}tokenizer_config.json`);
  const generation =
    files.generationConfig === undefined
      ? {}
      : parseJsonObject(files.generationConfig, `${source}generation_config.json`);
  const namedTokens = readNamedTokens(config);
  const idOf = (name: string) => (namedTokens[name] === undefined ? undefined : tokenToId(namedTokens[name]));
  const eosTokenIds = new Set(
    [idOf('eos_token'), ...toList(generation.eos_token_id)].filter((id) => Number.isInteger(id)) as number[],
  );
  return {
    namedTokens,
    bosTokenId: idOf('bos_token') ?? toList(generation.bos_token_id)[0],
    eosTokenIds: [...eosTokenIds],
    chatTemplate: files.chatTemplate ?? templateOf(config.chat_template, `${source}tokenizer_config.json`),
  };
}

/** Token fields are text, or an object with `content`. */
function readNamedTokens(config: Record<string, unknown>): Record<string, string> {
  const named: Record<string, string> = {};
  for (const [name, value] of Object.entries(config)) {
    if (!name.endsWith('_token')) continue;
    const content = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
    if (typeof content === 'string') named[name] = content;
  }
  return named;
}

function toList(value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter((id): id is number => Number.isInteger(id));
}

/** One template, or a list of named ones of which `default` is taken. */
function templateOf(value: unknown, file: string): string | undefined {
  if (value === undefined || value === null || typeof value === 'string') return value ?? undefined;
  if (Array.isArray(value)) {
    const named = value as { name?: string; template?: string }[];
    const chosen = named.find(({ name }) => name === 'default') ?? named[0];
    if (typeof chosen?.template === 'string') return chosen.template;
  }
  throw new CheckpointError(`Expected \`chat_template\` of ${file} to be text or a list of named templates.`, { file });
}
