import { Tokenizer as JsTokenizer } from '@huggingface/tokenizers';
import { UnsupportedFormatError } from '@qspec/core';
import type { TokenizerDefinition } from './tokenizer-definition.js';

/** The plain JavaScript implementation: text → ids, no template tokens around them. */
export class JsBackend {
  private readonly tokenizer: JsTokenizer;

  /** @throws UnsupportedFormatError naming a component that the library does not know. */
  constructor(definition: TokenizerDefinition, source: string) {
    try {
      this.tokenizer = new JsTokenizer(definition, {});
    } catch (cause) {
      const reason = (cause as Error).message;
      throw new UnsupportedFormatError(
        `Expected the tokenizer in ${source} to use known components but received one that is not supported: ${reason}.`,
        { source, reason },
        cause,
      );
    }
  }

  /** The whole text at once: blocks for the time it takes. */
  encode(text: string): number[] {
    return text.length === 0 ? [] : this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  /** Ids that the post-processor puts before and after a text. */
  templateIds(): { prefix: number[]; suffix: number[] } {
    const probe = 'a';
    const bare = this.encode(probe);
    const full = this.tokenizer.encode(probe, { add_special_tokens: true }).ids;
    const numPrefix = findSublist(full, bare);
    return { prefix: full.slice(0, numPrefix), suffix: full.slice(numPrefix + bare.length) };
  }

  /** `text` after the normalizer. */
  normalize(text: string): string {
    return this.tokenizer.normalizer === null ? text : this.tokenizer.normalizer.normalize(text);
  }
}

function findSublist(list: readonly number[], part: readonly number[]): number {
  for (let start = 0; start + part.length <= list.length; start++) {
    if (part.every((id, i) => list[start + i] === id)) return start;
  }
  return 0;
}
