import { InvariantError } from '@qspec/core';

/** A sequence's page ids in order of position. Grows by doubling; never shrinks its storage. */
export class PageTable {
  #ids = new Int32Array(8);
  #length = 0;
  #view: Int32Array | undefined;

  get length(): number {
    return this.#length;
  }

  /** Borrowed view; valid until the table changes. */
  view(): Int32Array {
    this.#view ??= this.#ids.subarray(0, this.#length);
    return this.#view;
  }

  at(index: number): number {
    if (index < 0 || index >= this.#length) {
      throw new InvariantError(`Expected page index below ${this.#length} but received ${index}. Please report this.`, {
        index,
        length: this.#length,
      });
    }
    return this.#ids[index]!;
  }

  push(pageId: number): void {
    if (this.#length === this.#ids.length) {
      const grown = new Int32Array(this.#ids.length * 2);
      grown.set(this.#ids);
      this.#ids = grown;
    }
    this.#ids[this.#length] = pageId;
    this.#length += 1;
    this.#view = undefined;
  }

  pop(): number {
    const pageId = this.at(this.#length - 1);
    this.#length -= 1;
    this.#view = undefined;
    return pageId;
  }

  /** Puts another page of equal contents in place of the one at `index`. */
  replace(index: number, pageId: number): void {
    this.at(index);
    this.#ids[index] = pageId;
  }
}
