const ABSENT = -2;
const END = -1;

/** A doubly linked list of page ids in typed arrays: append, remove and shift in constant time, no allocation. */
export class PageList {
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #first = END;
  #last = END;
  #length = 0;

  constructor(numPages: number) {
    this.#next = new Int32Array(numPages).fill(ABSENT);
    this.#previous = new Int32Array(numPages).fill(ABSENT);
  }

  get length(): number {
    return this.#length;
  }

  /** Id at the front, -1 when empty. */
  get first(): number {
    return this.#first;
  }

  has(pageId: number): boolean {
    return (this.#next[pageId] ?? ABSENT) !== ABSENT;
  }

  append(pageId: number): void {
    this.#previous[pageId] = this.#last;
    this.#next[pageId] = END;
    if (this.#last === END) this.#first = pageId;
    else this.#next[this.#last] = pageId;
    this.#last = pageId;
    this.#length += 1;
  }

  remove(pageId: number): void {
    const next = this.#next[pageId]!;
    const previous = this.#previous[pageId]!;
    if (previous === END) this.#first = next;
    else this.#next[previous] = next;
    if (next === END) this.#last = previous;
    else this.#previous[next] = previous;
    this.#next[pageId] = ABSENT;
    this.#previous[pageId] = ABSENT;
    this.#length -= 1;
  }

  toArray(): number[] {
    const ids: number[] = [];
    for (let id = this.#first; id !== END; id = this.#next[id]!) ids.push(id);
    return ids;
  }
}
