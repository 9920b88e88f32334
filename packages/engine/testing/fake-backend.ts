import {
  type BackendName,
  type ForwardBatch,
  type ForwardResult,
  InvariantError,
  type KernelBackend,
  needsTokenHistory,
  type PageTables,
  type RoundBatch,
  type RoundResult,
  type SequenceSampler,
  type Session,
  type SessionOptions,
  type TokenLogprobs,
  type VectorHandle,
  type WeightHandle,
} from '@qspec/core';

/** The next token, as a pure function of everything before it. */
export type Pick = (context: readonly number[], sampler: SequenceSampler) => number;

export interface FakeBackendOptions {
  readonly pick?: Pick;
  /** Share of draft tokens that equal the target's, decided by the context alone. Default 0.7. */
  readonly draftQuality?: number;
  /** Called before each round. */
  readonly onRound?: (batch: RoundBatch) => void | Promise<void>;
  readonly freeBytes?: number;
  /** The kind of device it stands for. Default `reference`. */
  readonly name?: BackendName;
}

/**
 * A backend without arithmetic whose cache holds token ids. It reads every context through the page tables, so a page that is lost, shared
 * wrongly, overwritten or never filled changes the text or throws.
 */
export class FakeBackend implements KernelBackend {
  readonly name: BackendName;
  readonly device;
  readonly residentBytes = 0;
  readonly sessions: FakeSession[] = [];
  isDisposed = false;

  constructor(readonly options: FakeBackendOptions = {}) {
    this.name = options.name ?? 'reference';
    this.device = { description: 'fake', arch: 'fake', numThreads: 1, freeBytes: options.freeBytes ?? 2 ** 30 };
  }

  async createWeight(): Promise<WeightHandle> {
    return {} as WeightHandle;
  }

  createVector(): VectorHandle {
    return {} as VectorHandle;
  }

  async createSession(options: SessionOptions): Promise<Session> {
    const session = new FakeSession(options, this.options);
    this.sessions.push(session);
    return session;
  }

  dispose(): void {
    this.isDisposed = true;
  }
}

/** FNV-1a over the tokens and the sampler's stream. */
export function hashPick(vocabSize: number): Pick {
  return (context, { params, stream }) => hash([...context, params.seed, stream]) % vocabSize;
}

export class FakeSession implements Session {
  readonly kvBytes = 0;
  readonly scratchBytes = 0;
  readonly rounds: RoundBatch[] = [];
  isDisposed = false;
  private isBusy = false;
  private readonly slots: Int32Array;
  private readonly pick: Pick;

  constructor(
    readonly options: SessionOptions,
    private readonly fake: FakeBackendOptions,
  ) {
    this.slots = new Int32Array(options.kv.numPages * options.kv.pageSize).fill(-1);
    this.pick = fake.pick ?? hashPick(options.vocabSize);
  }

  async round(batch: RoundBatch): Promise<RoundResult> {
    if (this.isBusy) throw new InvariantError('Expected one call at a time.');
    this.isBusy = true;
    await this.fake.onRound?.(batch);
    await new Promise((resolve) => setImmediate(resolve));
    this.rounds.push(batch);
    const result = this.play(batch);
    this.isBusy = false;
    return result;
  }

  private play(batch: RoundBatch): RoundResult {
    const tokens: number[] = [];
    const tokenOffsets = [0];
    const numAccepted: number[] = [];
    const logprobs: (TokenLogprobs[] | undefined)[] = [];
    let numRows = 0;
    batch.samplers.forEach((sampler, s) => {
      const inputs = [...batch.tokens.subarray(batch.tokenOffsets[s]!, batch.tokenOffsets[s + 1]!)];
      const gamma = batch.gammas[s]!;
      numRows += inputs.length + gamma;
      const context = [...this.read(batch, s, batch.startPositions[s]!), ...inputs];
      this.checkHistory(sampler, context);
      if (gamma > 0 && (batch.emit[s] !== 1 || inputs.length !== 1)) throw new Error('gamma needs emit and one input');
      const drafts = this.draft(context, sampler, gamma);
      this.write(batch, s, batch.startPositions[s]!, [...inputs, ...drafts]);
      const emitted = batch.emit[s] === 1 ? this.verify(context, drafts, sampler) : [];
      tokens.push(...emitted);
      tokenOffsets.push(tokens.length);
      numAccepted.push(Math.max(emitted.length - 1, 0));
      logprobs.push(sampler.params.logprobs === undefined ? undefined : emitted.map(fakeLogprobs));
    });
    if (numRows > this.options.maxRows) throw new Error(`${numRows} rows exceed maxRows ${this.options.maxRows}`);
    return {
      tokens: Int32Array.from(tokens),
      tokenOffsets: Int32Array.from(tokenOffsets),
      numAccepted: Int32Array.from(numAccepted),
      logprobs,
      draftMs: 1,
      verifyMs: 1,
    };
  }

  private draft(context: readonly number[], sampler: SequenceSampler, gamma: number): number[] {
    const drafts: number[] = [];
    for (let i = 0; i < gamma; i++) {
      const sofar = [...context, ...drafts];
      const isGood = hash([...sofar, 77]) % 1000 < (this.fake.draftQuality ?? 0.7) * 1000;
      drafts.push((this.pick(sofar, sampler) + (isGood ? 0 : 1)) % this.options.vocabSize);
    }
    return drafts;
  }

  private verify(context: readonly number[], drafts: readonly number[], sampler: SequenceSampler): number[] {
    const emitted: number[] = [];
    do emitted.push(this.pick([...context, ...emitted], sampler));
    while (emitted.at(-1) === drafts[emitted.length - 1]);
    return emitted;
  }

  private read(tables: PageTables, sequence: number, length: number): number[] {
    return Array.from({ length }, (_, position) => {
      const token = this.slots[this.slot(tables, sequence, position)]!;
      if (token < 0) throw new Error(`position ${position} of entry ${sequence} was never written`);
      return token;
    });
  }

  private write(tables: PageTables, sequence: number, start: number, tokens: readonly number[]): void {
    tokens.forEach((token, i) => {
      this.slots[this.slot(tables, sequence, start + i)] = token;
    });
  }

  private slot(tables: PageTables, sequence: number, position: number): number {
    const { pageSize } = this.options.kv;
    const index = tables.pageOffsets[sequence]! + Math.floor(position / pageSize);
    if (index >= tables.pageOffsets[sequence + 1]!) throw new Error(`position ${position} lies beyond the page table`);
    return tables.pageIds[index]! * pageSize + (position % pageSize);
  }

  private checkHistory(sampler: SequenceSampler, context: readonly number[]): void {
    const expected = needsTokenHistory(sampler.params) ? context : [];
    if (expected.join() !== [...sampler.history].join()) throw new Error('history differs from the context');
  }

  async forward(batch: ForwardBatch): Promise<ForwardResult> {
    if (this.isBusy) throw new InvariantError('Expected one call at a time.');
    for (const [r, token] of batch.tokens.entries())
      this.write(batch, batch.sequences[r]!, batch.positions[r]!, [token]);
    const logprobs = Float64Array.from(batch.labels ?? [], (label, i) => {
      const row = batch.logitRows[i]!;
      return -hash([...this.read(batch, batch.sequences[row]!, batch.positions[row]! + 1), label]) / 2 ** 32;
    });
    return { logprobs, argmax: new Int32Array(batch.logitRows.length) };
  }

  async copyPages(): Promise<void> {}

  dispose(): void {
    this.isDisposed = true;
  }
}

function fakeLogprobs(token: number): TokenLogprobs {
  return { token, logprob: -1, top: [{ token, logprob: -1 }] };
}

function hash(values: readonly number[]): number {
  let h = 0x811c9dc5;
  for (const value of values) h = Math.imul(h ^ value, 0x01000193) ^ (h >>> 13);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}
