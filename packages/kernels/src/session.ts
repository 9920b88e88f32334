import {
  DisposedError,
  type ForwardBatch,
  type ForwardResult,
  InvariantError,
  type RoundBatch,
  type RoundResult,
  type Session,
} from '@qspec/core';
import { guard } from './native-errors.js';
import type { NativeSessionHandle, OpProfile } from './native-types.js';
import { decodeRoundResult, encodeRoundBatch } from './round-encoding.js';

/** A {@link Session} that can also say where its time went. */
export interface ProfilingSession extends Session {
  /** Starts (and clears) or stops timing each op; costs two clock reads an op while on, one branch while off. @throws OutOfMemoryError, DeviceError */
  setProfiling(isOn: boolean): void;
  /** Time by program and op kind since profiling was switched on. */
  profile(): readonly OpProfile[];
}

export class NativeSession implements ProfilingSession {
  readonly #handle: NativeSessionHandle;
  readonly #onDispose: () => void;
  readonly kvBytes: number;
  readonly scratchBytes: number;
  #pending: string | undefined;
  #isDisposed = false;

  constructor(handle: NativeSessionHandle, onDispose: () => void) {
    this.#handle = handle;
    this.#onDispose = onDispose;
    this.kvBytes = handle.kvBytes;
    this.scratchBytes = handle.scratchBytes;
  }

  forward(batch: ForwardBatch): Promise<ForwardResult> {
    const { ancestors } = batch;
    return this.#run('forward', () =>
      this.#handle.forward({
        isDraft: batch.program === 'draft',
        pageOffsets: batch.pageOffsets,
        pageIds: batch.pageIds,
        tokens: batch.tokens,
        positions: batch.positions,
        sequences: batch.sequences,
        maxAncestors: ancestors?.maxAncestors ?? 0,
        ancestorStarts: ancestors?.ancestorStarts,
        ancestorSlots: ancestors?.ancestorSlots,
        logitRows: batch.logitRows,
        labels: batch.labels,
      }),
    );
  }

  round(batch: RoundBatch): Promise<RoundResult> {
    return this.#run('round', async () => decodeRoundResult(batch, await this.#handle.round(encodeRoundBatch(batch))));
  }

  copyPages(from: Int32Array, to: Int32Array): Promise<void> {
    return this.#run('copyPages', () => this.#handle.copyPages(from, to));
  }

  setProfiling(isOn: boolean): void {
    this.#expectAlive();
    guard(() => this.#handle.setProfiling(isOn));
  }

  profile(): readonly OpProfile[] {
    this.#expectAlive();
    return guard(() => this.#handle.profile());
  }

  dispose(): void {
    if (this.#isDisposed) return;
    if (this.#pending) {
      throw new InvariantError(
        `Expected no pending call at \`dispose\` but \`${this.#pending}\` is running: await it first.`,
      );
    }
    this.#isDisposed = true;
    this.#handle.dispose();
    this.#onDispose();
  }

  async #run<T>(name: string, call: () => Promise<T>): Promise<T> {
    this.#expectAlive();
    if (this.#pending) {
      throw new InvariantError(
        `Expected one call at a time but \`${name}\` came while \`${this.#pending}\` was pending: await it first.`,
      );
    }
    this.#pending = name;
    try {
      return await guard(call);
    } finally {
      this.#pending = undefined;
    }
  }

  #expectAlive(): void {
    if (this.#isDisposed) throw new DisposedError('Expected a live session but it was disposed.');
  }
}
