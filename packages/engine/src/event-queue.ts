/**
 * Hands events from the round loop to one consumer. `push` never waits (a slow reader makes the queue longer, never the batch slower);
 * what a consumer leaves unread goes with the queue.
 */
export class EventQueue<T> implements AsyncIterableIterator<T> {
  private readonly events: T[] = [];
  private waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void } | undefined;
  private isEnded = false;
  private error: unknown;

  /** `onReturn` runs when the consumer stops before the end (`break` in `for await`). */
  constructor(private readonly onReturn: () => void = () => {}) {}

  push(event: T): void {
    if (this.isEnded) return;
    if (this.waiting) this.settle().resolve({ value: event, done: false });
    else this.events.push(event);
  }

  end(): void {
    this.isEnded = true;
    if (this.waiting) this.settle().resolve({ value: undefined, done: true });
  }

  /** The consumer gets what was pushed before, then the error. */
  fail(error: unknown): void {
    if (this.isEnded) return;
    this.isEnded = true;
    if (this.waiting) this.settle().reject(error);
    else this.error = error;
  }

  async next(): Promise<IteratorResult<T>> {
    if (this.events.length > 0) return { value: this.events.shift()!, done: false };
    if (this.error !== undefined) {
      const error = this.error;
      this.error = undefined;
      throw error;
    }
    if (this.isEnded) return { value: undefined, done: true };
    return new Promise((resolve, reject) => (this.waiting = { resolve, reject }));
  }

  async return(): Promise<IteratorResult<T>> {
    if (!this.isEnded) this.onReturn();
    this.events.length = 0;
    this.end();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  private settle() {
    const waiting = this.waiting!;
    this.waiting = undefined;
    return waiting;
  }
}
