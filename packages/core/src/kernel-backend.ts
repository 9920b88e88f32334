import type { KvCacheShape } from './kv-format.js';
import type { Program, VectorHandle, WeightHandle } from './program.js';
import type { ResolvedSamplingParams } from './sampling-params.js';
import type { WeightSource } from './weight-source.js';

/**
 * Where arithmetic happens. `kernels` implements it (reference, cpu, cuda); everyone else is handed one.
 * All long work is asynchronous and off the JavaScript thread. Whoever creates a handle disposes it.
 */
export interface KernelBackend {
  readonly name: BackendName;
  readonly device: DeviceInfo;

  /**
   * Repacks one matrix, or several of equal format and K stacked along N, into the resident layout that every mode reads.
   * The sources may be reused once the promise settles.
   * @throws ShapeMismatchError, UnsupportedFormatError, OutOfMemoryError
   */
  createWeight(parts: readonly WeightSource[]): Promise<WeightHandle>;
  createVector(values: Float32Array): VectorHandle;

  /** @throws OutOfMemoryError when buffers or KV pages don't fit; ConfigError when a program is inconsistent. */
  createSession(options: SessionOptions): Promise<Session>;

  /** Bytes held by weights and vectors (KV pools belong to sessions). */
  readonly residentBytes: number;
  /** Frees every weight and vector. Sessions must be disposed before. Idempotent. */
  dispose(): void;
}

export type BackendName = 'reference' | 'cpu' | 'cuda';

export interface DeviceInfo {
  /** Human-readable, e.g. `Intel Xeon … (avx512vnni, 2 threads)`. */
  readonly description: string;
  /** Instruction set or compute capability in use, e.g. `avx512vnni`, `avx2`, `scalar`, `sm_90`. */
  readonly arch: string;
  readonly numThreads: number;
  /** Bytes that may still be allocated, as far as can be told: asked when it is read. @throws DeviceError when the device is lost. */
  readonly freeBytes: number;
}

export interface SessionOptions {
  /** Verifies, prefills and decides. Its cache entries are the ones that stay. */
  readonly target: Program;
  /** Proposes tokens in {@link Session.round}; needed only when some `gamma` is > 0. */
  readonly draft?: Program;
  readonly kv: KvCacheShape;
  readonly vocabSize: number;
  /** Most rows of one forward pass. */
  readonly maxRows: number;
  /** Most rows with logits in one forward pass. */
  readonly maxLogitRows: number;
}

/**
 * Programs bound to scratch buffers and a KV cache. One call at a time (a second one while the first is pending is an InvariantError).
 * Keeps no memory of requests: each call says everything about its batch in typed arrays.
 */
export interface Session {
  /** One forward pass over explicitly described rows. For evaluation and tests. */
  forward(batch: ForwardBatch): Promise<ForwardResult>;
  /** One scheduling round: draft, verify, accept, in one native call. */
  round(batch: RoundBatch): Promise<RoundResult>;
  /** Copies the K and V of whole pages, over all layers: `to[i] = from[i]`. */
  copyPages(from: Int32Array, to: Int32Array): Promise<void>;
  readonly kvBytes: number;
  readonly scratchBytes: number;
  /** Idempotent; waits for nothing: dispose only when no call is pending. */
  dispose(): void;
}

/** Page tables of the batch's sequences, ragged: pages of sequence s are pageIds[pageOffsets[s] … pageOffsets[s+1]). */
export interface PageTables {
  /** [numSequences + 1] */
  readonly pageOffsets: Int32Array;
  readonly pageIds: Int32Array;
}

/** slot = pageId · pageSize + position within the page. */
export interface ForwardBatch extends PageTables {
  readonly program: 'target' | 'draft';
  /** [numRows] */
  readonly tokens: Int32Array;
  /** [numRows] position of each row in its sequence. */
  readonly positions: Int32Array;
  /** [numRows] index of the row's sequence in the page tables. */
  readonly sequences: Int32Array;
  /**
   * Speculative ancestors, for trees. Absent: every position's slot comes from the page table (a chain).
   * Present: for row r, positions in [ancestorStarts[r], positions[r]] lie in slots
   * ancestorSlots[r · maxAncestors + (position - ancestorStarts[r])], the last being the row's own slot, which it writes.
   */
  readonly ancestors?: {
    readonly maxAncestors: number;
    /** [numRows] */
    readonly ancestorStarts: Int32Array;
    /** [numRows, maxAncestors] */
    readonly ancestorSlots: Int32Array;
  };
  /** Rows whose logits are wanted, ascending. */
  readonly logitRows: Int32Array;
  /** Absent: raw logits come back. Present, [numLogitRows]: log-probability of this id at each logit row instead (evaluation). */
  readonly labels?: Int32Array;
}

export interface ForwardResult {
  /** [numLogitRows, vocabSize]; absent when labels were given. */
  readonly logits?: Float32Array;
  /** [numLogitRows] natural log of softmax(logits)[label], when labels were given. */
  readonly logprobs?: Float64Array;
  /** [numLogitRows] lowest id among the largest logits. */
  readonly argmax: Int32Array;
}

/**
 * One entry a sequence. Input tokens sit at positions startPositions[s] …; everything before is in the cache already.
 * `emit` asks for a token after the last input. With `gamma` > 0 (which requires `emit` and exactly one input token)
 * draft mode continues for gamma tokens, or `draftTokens` are taken as the proposal; then the target runs once over
 * all input and draft rows of all entries, overwriting the cache entries of the draft.
 * The page tables must cover startPosition + numInputs + gamma tokens.
 */
export interface RoundBatch extends PageTables {
  /** [numSequences + 1] prefix sums into `tokens`. */
  readonly tokenOffsets: Int32Array;
  readonly tokens: Int32Array;
  /** [numSequences] */
  readonly startPositions: Int32Array;
  /** [numSequences] 1: sample after the last input token. */
  readonly emit: Uint8Array;
  /** [numSequences] draft tokens wanted. */
  readonly gammas: Int32Array;
  /** Proposals that need no draft pass (n-gram): [sum of gammas] over the sequences in order, -1 where draft mode should draw. Absent: all -1. */
  readonly draftTokens?: Int32Array;
  readonly samplers: readonly SequenceSampler[];
}

/** Sampling of one sequence; the random number for a draw is a function of (seed, stream, position of the drawn token) alone. */
export interface SequenceSampler {
  readonly params: ResolvedSamplingParams;
  /** Distinguishes parallel samples of one request; part of the random stream's key. */
  readonly stream: number;
  /** Prompt and output so far (this round's inputs included), only if {@link needsTokenHistory}; else empty. */
  readonly history: Int32Array;
  /** Where the output begins in `history`. */
  readonly numPromptTokens: number;
}

export interface RoundResult {
  /** [numSequences + 1] prefix sums into `tokens`. Entries without `emit` have none; others numAccepted + 1. */
  readonly tokenOffsets: Int32Array;
  /** Accepted draft tokens, then the target's own. */
  readonly tokens: Int32Array;
  /** [numSequences] draft tokens that equalled the target's pick. */
  readonly numAccepted: Int32Array;
  /** One an emitted token, in order, for sequences that asked for logprobs; undefined for others. */
  readonly logprobs: readonly (readonly TokenLogprobs[] | undefined)[];
  readonly draftMs: number;
  readonly verifyMs: number;
}

/** From the target's raw logits, before bias, penalties and temperature. */
export interface TokenLogprobs {
  readonly token: number;
  readonly logprob: number;
  /** Most likely first. */
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}
