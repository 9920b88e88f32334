import type { DecoderStage } from './decoder/stages.js';

/**
 * Tokens to text as they come. Every `push` returns the text that no later token can change; the concatenation of all pushes
 * and the `flush` equals `Tokenizer.decode` of all ids. Never emits half a character. Linear in the number of tokens.
 */
export class IncrementalDetokenizer {
  /** Made by `Tokenizer.createDetokenizer`. `tokenOf` returns undefined for ids that leave no text. */
  constructor(
    private readonly stages: readonly DecoderStage[],
    private readonly tokenOf: (id: number) => string | undefined,
  ) {}

  /** @param id a token id; unknown ones and skipped special tokens give no text. */
  push(id: number): string {
    const token = this.tokenOf(id);
    return token === undefined ? '' : this.run([token], 0);
  }

  /** End of the sequence: the rest, with U+FFFD where a character stayed unfinished. The detokenizer can't be used afterwards. */
  flush(): string {
    let text = '';
    for (let i = 0; i < this.stages.length; i++) {
      const rest: string[] = [];
      this.stages[i]?.flush(rest);
      text += this.run(rest, i + 1);
    }
    return text;
  }

  private run(tokens: string[], firstStage: number): string {
    let current = tokens;
    for (let i = firstStage; i < this.stages.length && current.length > 0; i++) {
      const next: string[] = [];
      for (const token of current) this.stages[i]?.push(token, next);
      current = next;
    }
    return current.join('');
  }
}
