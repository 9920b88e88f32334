import { type CutFinder, leftContext, startsWith } from './cut-finder.js';

/** Most characters encoded between two looks at the event loop: 5-10 ms in plain JavaScript. */
export const WINDOW = 3072;

/** Of the first window, too: code that runs for the first time is slow. */
export const MIN_WINDOW = 1024;

/** Size of the next window, such that one takes about 8 ms on this machine and text. */
export function nextWindowSize(size: number, tookMs: number): number {
  if (tookMs > 12) return Math.max(MIN_WINDOW, size >> 1);
  return tookMs < 4 ? Math.min(WINDOW, size << 1) : size;
}

/** The longest stretch without a safe cut that is still encoded on the calling thread. */
export const MAX_UNCUT = 4 * WINDOW;

/** Part of a text between two safe cuts, to be encoded with `context` before it, whose ids are then dropped. */
export interface TextWindow {
  readonly context: string;
  readonly text: string;
}

/** Cuts `text` into windows of up to `sizeOf()` characters; longer where no safe cut is near. `undefined`: still looking. */
export function* windowsOf(
  text: string,
  cuts: CutFinder,
  sizeOf: () => number = () => WINDOW,
): Generator<TextWindow | undefined> {
  let start = 0;
  while (start < text.length) {
    const size = sizeOf();
    let end = text.length;
    if (cuts.canCut) {
      for (let from = start; from + size < text.length; from += size) {
        const cut = cuts.findBackwards(text, from, from + size);
        if (cut !== undefined) {
          end = cut;
          break;
        }
        yield undefined;
      }
    }
    yield { context: leftContext(text, start), text: text.slice(start, end) };
    start = end;
  }
}

/**
 * Ids of a window out of the ids of context and window together; undefined when the context did not keep to itself,
 * which no checked cut should allow.
 */
export function windowIds(
  joined: readonly number[] | Int32Array,
  contextIds: readonly number[],
): ArrayLike<number> | undefined {
  return startsWith(joined, contextIds) ? joined.slice(contextIds.length) : undefined;
}
