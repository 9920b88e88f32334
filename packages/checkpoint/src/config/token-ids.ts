import type { ConfigFields } from './config-fields.js';

interface TokenIds {
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId?: number;
}

/** Special ids of config.json; the end-of-sequence ids of generation_config.json are added to its own. */
export function parseTokenIds(config: ConfigFields, vocabSize: number, generation: ConfigFields | undefined): TokenIds {
  const sources = generation ? [config, generation] : [config];
  const eosTokenIds = [...new Set(sources.flatMap((source) => idList(source, 'eos_token_id', vocabSize)))];
  const [bosTokenId] = sources.flatMap((source) => idList(source, 'bos_token_id', vocabSize));
  // -1 stands for "none" in some configurations; padding is never used here, so any nonsense there is harmless.
  const pad = config.raw('pad_token_id');
  const hasPad = Number.isInteger(pad) && (pad as number) >= 0 && (pad as number) < vocabSize;
  return {
    eosTokenIds,
    ...(bosTokenId !== undefined && { bosTokenId }),
    ...(hasPad && { padTokenId: pad as number }),
  };
}

function idList(config: ConfigFields, field: string, vocabSize: number): number[] {
  const value = config.raw(field);
  if (value === undefined) return [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocabSize) {
      throw config.invalid(field, `token ids from 0 to ${vocabSize - 1}`, value);
    }
  }
  return ids as number[];
}
