import { UnsupportedFormatError } from '@qspec/core';
import { type ComponentDefinition, flattenComponents } from '../tokenizer-definition.js';
import { byteLevelBytes } from './byte-level.js';

/**
 * One step from tokens to text, fed one token at a time. Holds back what later tokens may still change:
 * a started UTF-8 character, the last token when the end of the text treats it differently.
 */
export interface DecoderStage {
  /** The next token; what is certain now is appended to `out`. */
  push(token: string, out: string[]): void;
  /** No more tokens: appends what was held back. */
  flush(out: string[]): void;
}

/** Bytes of unfinished characters are held back; malformed ones become U+FFFD, one for each maximal ill-formed part. */
class Utf8Stage {
  private decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  private isOpen = false;

  bytes(bytes: Uint8Array, out: string[]): void {
    this.isOpen = true;
    emit(this.decoder.decode(bytes, { stream: true }), out);
  }

  flush(out: string[]): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    emit(this.decoder.decode(), out);
  }
}

class ByteLevelStage extends Utf8Stage implements DecoderStage {
  push(token: string, out: string[]): void {
    this.bytes(byteLevelBytes(token), out);
  }
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** `<0xE2>` tokens are bytes, all others text. */
class ByteFallbackStage extends Utf8Stage implements DecoderStage {
  push(token: string, out: string[]): void {
    const match = BYTE_TOKEN.exec(token);
    if (match) {
      this.bytes(Uint8Array.of(Number.parseInt(match[1] as string, 16)), out);
    } else {
      this.flush(out);
      out.push(token);
    }
  }
}

/** Each token by itself; `isFirst` for the first one. */
class MapStage implements DecoderStage {
  private isFirst = true;
  constructor(private readonly map: (token: string, isFirst: boolean) => string) {}

  push(token: string, out: string[]): void {
    out.push(this.map(token, this.isFirst));
    this.isFirst = false;
  }

  flush(): void {}
}

/** `</w>`-style vocabularies: the suffix is a space, but nothing at the end of the text. */
class SuffixStage implements DecoderStage {
  private held: string | undefined;
  constructor(private readonly suffix: string) {}

  push(token: string, out: string[]): void {
    if (this.held !== undefined) out.push(this.held.replaceAll(this.suffix, ' '));
    this.held = token;
  }

  flush(out: string[]): void {
    if (this.held !== undefined) out.push(this.held.replaceAll(this.suffix, ''));
    this.held = undefined;
  }
}

/**
 * After Fuse all text is one token, so Strip sees the beginning and the end of the whole text only:
 * up to `start` leading and `stop` trailing occurrences of `content` go.
 */
class StripWholeStage implements DecoderStage {
  private held = '';
  private numLeft: number;
  constructor(
    private readonly content: string,
    start: number,
    private readonly stop: number,
  ) {
    this.numLeft = start;
  }

  push(text: string, out: string[]): void {
    let rest = text;
    while (this.numLeft > 0 && rest.length > 0) {
      const found = rest.startsWith(this.content);
      this.numLeft = found ? this.numLeft - 1 : 0;
      if (found) rest = rest.slice(this.content.length);
    }
    const all = this.held + rest;
    const cut = all.length - countTrailing(all, this.content, this.stop) * this.content.length;
    emit(all.slice(0, cut), out);
    this.held = all.slice(cut);
  }

  flush(): void {
    this.held = '';
  }
}

function emit(text: string, out: string[]): void {
  if (text.length > 0) out.push(text);
}

function countTrailing(text: string, content: string, max: number): number {
  let count = 0;
  while (count < max && text.endsWith(content, text.length - count * content.length)) count++;
  return count;
}

function stripEnds(token: string, content: string, start: number, stop: number): string {
  let begin = 0;
  for (let i = 0; i < start && token.startsWith(content, begin); i++) begin += content.length;
  const rest = token.slice(begin);
  return rest.slice(0, rest.length - countTrailing(rest, content, stop) * content.length);
}

/** English spacing of WordPiece output, by token. */
function cleanUp(token: string): string {
  return token
    .replaceAll(' .', '.')
    .replaceAll(' ?', '?')
    .replaceAll(' !', '!')
    .replaceAll(' ,', ',')
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(' do not', " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

function metaspaceStage(part: ComponentDefinition): DecoderStage {
  const mark = (part.replacement as string | undefined) ?? '▁';
  const prepends = part.prepend_scheme !== 'never' && part.add_prefix_space !== false;
  return new MapStage((token, isFirst) => token.replaceAll(mark, isFirst && prepends ? '' : ' '));
}

function wordPieceStage(part: ComponentDefinition): DecoderStage {
  const prefix = (part.prefix as string | undefined) ?? '##';
  return new MapStage((token, isFirst) => {
    const joined = isFirst ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
    return part.cleanup === true ? cleanUp(joined) : joined;
  });
}

function replaceStage(part: ComponentDefinition, source: string): DecoderStage {
  const pattern = part.pattern as { String?: string; Regex?: string } | undefined;
  const content = String(part.content ?? '');
  if (typeof pattern?.String === 'string') {
    const needle = pattern.String;
    return new MapStage((token) => token.split(needle).join(content));
  }
  throw new UnsupportedFormatError(
    `Expected the Replace decoder's \`pattern\` to be a String but received ${JSON.stringify(pattern)} in ${source}.`,
  );
}

function createStage(part: ComponentDefinition, isFused: boolean, source: string): DecoderStage | undefined {
  switch (part.type) {
    case 'ByteLevel':
      return new ByteLevelStage();
    case 'ByteFallback':
      return new ByteFallbackStage();
    case 'Metaspace':
      return metaspaceStage(part);
    case 'WordPiece':
      return wordPieceStage(part);
    case 'BPEDecoder':
      return new SuffixStage((part.suffix as string | undefined) ?? '</w>');
    case 'Replace':
      return replaceStage(part, source);
    case 'Strip': {
      const [content, start, stop] = [String(part.content ?? ' '), Number(part.start ?? 0), Number(part.stop ?? 0)];
      return isFused
        ? new StripWholeStage(content, start, stop)
        : new MapStage((token) => stripEnds(token, content, start, stop));
    }
    case 'Fuse':
      return undefined;
    default:
      throw new UnsupportedFormatError(
        `Expected the tokenizer's decoder to be a known type but received "${part.type}" in ${source}.`,
        {
          type: part.type,
        },
      );
  }
}

/** Fresh stages of `decoder`; none given: tokens are separated by spaces. @throws UnsupportedFormatError naming an unknown type. */
export function createStages(decoder: ComponentDefinition | null, source: string): DecoderStage[] {
  if (decoder === null) return [new MapStage((token, isFirst) => (isFirst ? token : ` ${token}`))];
  const stages: DecoderStage[] = [];
  let isFused = false;
  for (const part of flattenComponents(decoder)) {
    const stage = createStage(part, isFused, source);
    if (stage) stages.push(stage);
    isFused ||= part.type === 'Fuse' || part.type === 'ByteLevel';
  }
  return stages;
}
