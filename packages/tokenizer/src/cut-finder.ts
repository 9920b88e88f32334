import { toByteLevel } from './decoder/byte-level.js';
import { flattenComponents, type TokenizerDefinition, vocabEntries } from './tokenizer-definition.js';

/** What a cut is judged by: the whole-text encoder and its normalizer. */
export interface CutOracle {
  encode(text: string): number[];
  normalize(text: string): string;
}

/** Characters on each side of a cut that are looked at: more than any common token is long. */
const CONTEXT = 64;

/** Pre-tokenizers that see a text the same way from every boundary of theirs on. */
const MEMORYLESS = new Set([
  'ByteLevel',
  'Digits',
  'Punctuation',
  'Whitespace',
  'WhitespaceSplit',
  'BertPreTokenizer',
  'Metaspace',
  'Split',
]);

/**
 * Finds places where a text may be cut so that encoding the parts gives the ids of the whole. A cut must pass three checks:
 * it lies between characters of different classes (never within a run of letters, digits, spaces or one symbol);
 * no token of the vocabulary matches the text across it, so that no merge and no lattice path can (BPE, Unigram);
 * encoding its surroundings together begins with the ids of the left part alone, which settles pre-tokenisation.
 */
export class CutFinder {
  private readonly isByteLevel: boolean;
  private readonly checksVocabulary: boolean;
  private readonly longTokens: LongTokens;
  /** False: this tokenizer's texts are never cut. */
  readonly canCut: boolean;

  /** @param hasToken is this string a token? */
  constructor(
    definition: TokenizerDefinition,
    private readonly hasToken: (token: string) => boolean,
    private readonly oracle: CutOracle,
  ) {
    const preTokenizers = flattenComponents(definition.pre_tokenizer);
    this.canCut =
      preTokenizers.every(({ type, pattern }) => MEMORYLESS.has(type) && !looksBehind(pattern)) &&
      !hasOwnSpacing(definition);
    this.isByteLevel = preTokenizers.some(({ type }) => type === 'ByteLevel');
    this.checksVocabulary = definition.model.type !== 'WordPiece';
    this.longTokens = indexLongTokens(definition);
  }

  /** The last safe cut in (from, to], or undefined. Word beginnings are tried first, then every change of character class. */
  findBackwards(text: string, from: number, to: number): number | undefined {
    if (!this.canCut) return undefined;
    return (
      this.search(text, from, to, isWordStart, 12) ??
      this.search(text, from, to, this.checksVocabulary ? isClassChange : isWordEdge, 32)
    );
  }

  private search(text: string, from: number, to: number, isCandidate: Candidate, maxTries: number): number | undefined {
    let tries = 0;
    for (let cut = to; cut > from && tries < maxTries; cut--) {
      if (!isCandidate(text, cut)) continue;
      tries++;
      if (this.isSafe(text, cut)) return cut;
    }
    return undefined;
  }

  private isSafe(text: string, cut: number): boolean {
    const left = leftContext(text, cut);
    const right = text.slice(cut, alignEnd(text, cut + CONTEXT));
    return !this.isCrossed(left, right) && startsWith(this.oracle.encode(left + right), this.oracle.encode(left));
  }

  /** Does any token of the vocabulary match across the border of `left` and `right`? */
  private isCrossed(left: string, right: string): boolean {
    if (!this.checksVocabulary) return false;
    const before = this.mapped(left);
    const whole = this.mapped(left + right);
    if (!whole.startsWith(before)) return true;
    const border = before.length;
    const { heads, maxLen } = this.longTokens;
    for (let start = Math.max(0, border - maxLen + 1); start < border; start++) {
      const canBeLong = heads.has(whole.slice(start, start + HEAD_LEN));
      const end = Math.min(whole.length, start + (canBeLong ? maxLen : HEAD_LEN));
      for (let stop = border + 1; stop <= end; stop++) {
        if (this.hasToken(whole.slice(start, stop))) return true;
      }
    }
    return false;
  }

  private mapped(text: string): string {
    const normalized = this.oracle.normalize(text);
    return this.isByteLevel ? toByteLevel(normalized) : normalized.replaceAll(' ', '▁');
  }
}

/** Tokens longer than this are looked up only where their beginning matches. */
const HEAD_LEN = 8;

interface LongTokens {
  readonly heads: ReadonlySet<string>;
  readonly maxLen: number;
}

function indexLongTokens({ model }: TokenizerDefinition): LongTokens {
  const heads = new Set<string>();
  let maxLen = 1;
  for (const [, token] of vocabEntries(model)) {
    if (token.length > HEAD_LEN) heads.add(token.slice(0, HEAD_LEN));
    maxLen = Math.max(maxLen, token.length);
  }
  return { heads, maxLen: Math.min(maxLen, CONTEXT) };
}

type Candidate = (text: string, cut: number) => boolean;

/** Text right before `cut` that a window beginning there is encoded with (and whose ids are then dropped). */
export function leftContext(text: string, cut: number): string {
  const start = Math.max(0, cut - CONTEXT);
  return text.slice(isLowSurrogate(text, start) ? start + 1 : start, cut);
}

export function startsWith(list: ArrayLike<number>, prefix: readonly number[]): boolean {
  return prefix.length <= list.length && prefix.every((id, i) => list[i] === id);
}

function isWordStart(text: string, cut: number): boolean {
  return text[cut] === ' ' && isAsciiLetter(text.charCodeAt(cut - 1)) && isAsciiLetter(text.charCodeAt(cut + 1));
}

function isAsciiLetter(code: number): boolean {
  return (code | 32) >= 97 && (code | 32) <= 122;
}

/** 0 outside the text; letters 1, digits 2, space 3, line ends 4, marks and joiners 5 (never cut around), symbols by themselves. */
function charClass(text: string, index: number): number {
  const code = text.charCodeAt(index);
  if (isAsciiLetter(code)) return 1;
  if (code >= 48 && code <= 57) return 2;
  if (code === 32 || code === 9) return 3;
  if (code === 10 || code === 13) return 4;
  if (code < 128) return 6;
  const char = String.fromCodePoint(text.codePointAt(isLowSurrogate(text, index) ? index - 1 : index) as number);
  if (/[\p{M}\p{Cf}\p{Cc}\p{Cn}\p{Co}\p{Sk}]/u.test(char)) return 5;
  if (/\p{L}/u.test(char)) return 1;
  if (/\p{N}/u.test(char)) return 2;
  return /\s/u.test(char) ? 3 : 6;
}

function isClassChange(text: string, cut: number): boolean {
  if (isLowSurrogate(text, cut)) return false;
  const [left, right] = [charClass(text, cut - 1), charClass(text, cut)];
  return left !== right && left !== 5 && right !== 5;
}

/** WordPiece may keep anything but white space together in one word. */
function isWordEdge(text: string, cut: number): boolean {
  return isClassChange(text, cut) && (/\s/.test(text[cut] as string) || /\s/.test(text[cut - 1] as string));
}

function isLowSurrogate(text: string, index: number): boolean {
  const code = text.charCodeAt(index);
  return code >= 0xdc00 && code <= 0xdfff;
}

function alignEnd(text: string, end: number): number {
  return isLowSurrogate(text, end) ? end - 1 : end;
}

function looksBehind(pattern: unknown): boolean {
  const regex = (pattern as { Regex?: string } | undefined)?.Regex;
  return regex !== undefined && /\(\?<[=!]|\\[AGKzZ]|(?<![[\\])\^|\{\d{2,}/.test(regex);
}

/** Vocabularies whose tokens are not substrings of the normalised text. */
function hasOwnSpacing({ model }: TokenizerDefinition): boolean {
  const isSet = (field: string) => typeof model[field] === 'string' && model[field] !== '';
  return model.type === 'BPE' && (isSet('end_of_word_suffix') || isSet('continuing_subword_prefix'));
}
