/**
 * Hands events from the round loop to one consumer. `push` never waits: a slow reader makes the queue longer, never the batch slower.
 */
export class EventQueue<T> implements AsyncIterable<T> {
  private readonly events: T[] = [];
  private waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void } | undefined;
  private isEnded = false;
  private failure: { readonly error: unknown } | undefined;

  push(event: T): void {
    if (this.isEnded) return;
    if (this.waiting) this.takeWaiting().resolve({ value: event, done: false });
    else this.events.push(event);
  }

  end(): void {
    this.isEnded = true;
    if (this.waiting) this.takeWaiting().resolve({ value: undefined, done: true });
  }

  /** The consumer gets what was pushed before, then the error. */
  fail(error: unknown): void {
    if (this.isEnded) return;
    this.isEnded = true;
    if (this.waiting) this.takeWaiting().reject(error);
    else this.failure = { error };
  }

  async next(): Promise<IteratorResult<T>> {
    if (this.events.length > 0) return { value: this.events.shift()!, done: false };
    if (this.failure) {
      const { error } = this.failure;
      this.failure = undefined;
      throw error;
    }
    if (this.isEnded) return { value: undefined, done: true };
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
    });
  }

  [Symbol.asyncIterator](): AsyncIterator<T> {
    return { next: () => this.next() };
  }

  private takeWaiting() {
    const waiting = this.waiting!;
    this.waiting = undefined;
    return waiting;
  }
}
