import { CheckpointError, UnsupportedFormatError } from '@qspec/core';

export interface AddedTokenDefinition {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** A component of the pipeline as tokenizer.json writes it. */
export interface ComponentDefinition {
  readonly type: string;
  readonly [field: string]: unknown;
}

export interface ModelDefinition extends ComponentDefinition {
  readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
}

/** A checked tokenizer.json. Field names are the file's own. */
export interface TokenizerDefinition {
  readonly model: ModelDefinition;
  readonly normalizer: ComponentDefinition | null;
  readonly pre_tokenizer: ComponentDefinition | null;
  readonly post_processor: ComponentDefinition | null;
  readonly decoder: ComponentDefinition | null;
  readonly added_tokens: readonly AddedTokenDefinition[];
}

export const MODEL_TYPES = ['BPE', 'Unigram', 'WordPiece'] as const;

/** Parses JSON text; objects pass through. @throws CheckpointError naming `file`. */
export function parseJsonObject(value: string | object, file: string): Record<string, unknown> {
  let parsed: unknown = value;
  if (typeof value === 'string') {
    try {
      parsed = JSON.parse(value);
    } catch (cause) {
      throw new CheckpointError(
        `Expected \`${file}\` to be valid JSON but received ${value.length} characters that are not (${(cause as Error).message}). Fetch the file again.`,
        { file },
        cause,
      );
    }
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new CheckpointError(`Expected \`${file}\` to hold a JSON object but received ${describe(parsed)}.`, { file });
  }
  return parsed as Record<string, unknown>;
}

/**
 * Checks what the rest of the package relies on.
 * @throws CheckpointError when the file is not a tokenizer.json; UnsupportedFormatError naming an unknown tokeniser type.
 */
export function parseTokenizerDefinition(value: string | object, file: string): TokenizerDefinition {
  const json = parseJsonObject(value, file);
  const model = json.model;
  if (!isObject(model))
    throw new CheckpointError(`Expected \`model\` of ${file} to be an object but received ${describe(model)}.`, {
      file,
    });
  const type = modelType(model);
  if (!(MODEL_TYPES as readonly unknown[]).includes(type)) {
    throw new UnsupportedFormatError(
      `Expected the tokenizer's \`model.type\` to be one of ${MODEL_TYPES.join(', ')} but received ${describe(type)} in ${file}.`,
      { file, type },
    );
  }
  checkVocab(model, file);
  return {
    ...json,
    model: withUsableMerges({ ...model, type: type as string }, file),
    normalizer: component(json, 'normalizer', file),
    pre_tokenizer: component(json, 'pre_tokenizer', file),
    post_processor: component(json, 'post_processor', file),
    decoder: component(json, 'decoder', file),
    added_tokens: addedTokens(json.added_tokens, file),
  };
}

/** Old files leave `type` out; the fields tell. */
function modelType(model: Record<string, unknown>): unknown {
  if (model.type !== undefined) return model.type;
  if (Array.isArray(model.merges)) return 'BPE';
  if (Array.isArray(model.vocab)) return 'Unigram';
  return typeof model.continuing_subword_prefix === 'string' ? 'WordPiece' : undefined;
}

function checkVocab(model: Record<string, unknown>, file: string): void {
  const { vocab } = model;
  const isList = Array.isArray(vocab);
  const entry = isList ? vocab[0] : undefined;
  const ok = isList
    ? Array.isArray(entry) && typeof entry[0] === 'string'
    : isObject(vocab) && Object.keys(vocab).length > 0;
  if (!ok) {
    throw new CheckpointError(`Expected \`model.vocab\` of ${file} to list tokens but received ${describe(vocab)}.`, {
      file,
    });
  }
}

function withUsableMerges(model: Record<string, unknown> & { type: string }, file: string): ModelDefinition {
  if (model.type === 'BPE' && !Array.isArray(model.merges)) {
    throw new CheckpointError(
      `Expected \`model.merges\` of ${file} to be a list but received ${describe(model.merges)}.`,
      { file },
    );
  }
  return model as unknown as ModelDefinition;
}

function component(json: Record<string, unknown>, field: string, file: string): ComponentDefinition | null {
  const value = json[field];
  if (value === undefined || value === null) return null;
  if (isObject(value) && typeof value.type === 'string') return value as ComponentDefinition;
  throw new CheckpointError(
    `Expected \`${field}\` of ${file} to be an object with a \`type\` but received ${describe(value)}.`,
    { file, field },
  );
}

function addedTokens(value: unknown, file: string): readonly AddedTokenDefinition[] {
  if (value === undefined || value === null) return [];
  const ok =
    Array.isArray(value) &&
    value.every((token) => isObject(token) && Number.isInteger(token.id) && typeof token.content === 'string');
  if (!ok)
    throw new CheckpointError(`Expected \`added_tokens\` of ${file} to list tokens with \`id\` and \`content\`.`, {
      file,
    });
  return value as AddedTokenDefinition[];
}

/** [id, token] of the model's own vocabulary, added tokens not included. */
export function* vocabEntries(model: ModelDefinition): Generator<[number, string]> {
  const { vocab } = model;
  if (Array.isArray(vocab)) {
    for (const [id, entry] of vocab.entries()) yield [id, (entry as [string, number])[0]];
  } else {
    for (const [token, id] of Object.entries(vocab as Record<string, number>)) yield [id, token];
  }
}

/** `component` and, inside a Sequence, its parts, in order. */
export function flattenComponents(component: ComponentDefinition | null): ComponentDefinition[] {
  if (component === null) return [];
  if (component.type !== 'Sequence') return [component];
  const parts = component.normalizers ?? component.pretokenizers ?? component.decoders ?? component.processors ?? [];
  return (parts as ComponentDefinition[]).flatMap((part) => flattenComponents(part));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  return typeof value === 'string' ? `"${value}"` : String(value);
}
