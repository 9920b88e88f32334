/** What may be shown after a piece of text arrived. */
export interface StopCheck {
  /** Text that certainly precedes any stop string. */
  readonly text: string;
  /** The stop string that ended the output; everything from it on is dropped. */
  readonly stopString?: string;
}

/**
 * Looks for stop strings in text that arrives in pieces. Holds back the longest tail that may still become a stop string, so that the text let
 * through never has to be taken back, and ends exactly before the first complete occurrence however the pieces were cut.
 */
export class StopStringMatcher {
  private held = '';

  constructor(private readonly stopStrings: readonly string[]) {}

  push(piece: string): StopCheck {
    const text = this.held + piece;
    const found = this.firstStop(text);
    if (found) {
      this.held = '';
      return { text: text.slice(0, found.index), stopString: found.stopString };
    }
    const keep = this.possiblePrefixLen(text);
    this.held = text.slice(text.length - keep);
    return { text: text.slice(0, text.length - keep) };
  }

  /** The output ended otherwise: what was held back belongs to it. */
  flush(): string {
    const text = this.held;
    this.held = '';
    return text;
  }

  /** The occurrence that is complete first (of those the one that began first): what reading letter by letter would find. */
  private firstStop(text: string): { index: number; stopString: string } | undefined {
    let first: { index: number; end: number; stopString: string } | undefined;
    for (const stopString of this.stopStrings) {
      const index = text.indexOf(stopString);
      const end = index + stopString.length;
      if (index >= 0 && (!first || end < first.end || (end === first.end && index < first.index)))
        first = { index, end, stopString };
    }
    return first;
  }

  /** Length of the longest tail of `text` that begins a stop string. */
  private possiblePrefixLen(text: string): number {
    let longest = 0;
    for (const stopString of this.stopStrings) {
      for (let len = Math.min(stopString.length - 1, text.length); len > longest; len--) {
        if (text.endsWith(stopString.slice(0, len))) longest = len;
      }
    }
    return longest;
  }
}
