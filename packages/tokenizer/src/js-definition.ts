import type { ComponentDefinition, TokenizerDefinition } from './tokenizer-definition.js';

/** Punctuation as the Rust library counts it: Unicode's, and ASCII symbols. */
const PUNCTUATION = '[\\p{P}$+<=>^`|~]';

/**
 * Pre-tokenizers that `@huggingface/tokenizers` 0.2 runs with ASCII classes or groups differently, written as the Unicode splits
 * they are in the Rust library: Digits (½, ٣ and Ⅷ are digits), Whitespace (words of any script), Punctuation (each by itself).
 */
export function forJsLibrary(definition: TokenizerDefinition): TokenizerDefinition {
  return { ...definition, pre_tokenizer: definition.pre_tokenizer && mendPreTokenizer(definition.pre_tokenizer) };
}

function mendPreTokenizer(part: ComponentDefinition): ComponentDefinition {
  switch (part.type) {
    case 'Sequence':
      return { ...part, pretokenizers: (part.pretokenizers as ComponentDefinition[]).map(mendPreTokenizer) };
    case 'Digits':
      return split(part.individual_digits === true ? '\\p{N}' : '\\p{N}+', 'Isolated', false);
    case 'Whitespace':
      return split('\\w+|[^\\w\\s]+', 'Removed', true);
    case 'Punctuation':
      return part.behavior === undefined || part.behavior === 'Isolated' ? split(PUNCTUATION, 'Isolated', false) : part;
    default:
      return part;
  }
}

function split(regex: string, behavior: string, invert: boolean): ComponentDefinition {
  return { type: 'Split', pattern: { Regex: regex }, behavior, invert };
}
