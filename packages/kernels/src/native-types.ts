/**
 * What the addon exports, exactly as C++ registers it (native/binding). Private to this package: handles never leave it.
 * Every method either returns, or throws/rejects with an Error whose `code` is a {@link NativeStatus}.
 */
export const NATIVE_ABI_VERSION = 3;

export type NativeStatus =
  | 'INVALID_ARGUMENT'
  | 'SHAPE_MISMATCH'
  | 'UNSUPPORTED'
  | 'OUT_OF_MEMORY'
  | 'DEVICE'
  | 'DISPOSED'
  | 'INTERNAL';

export interface NativeAddon {
  readonly abiVersion: number;
  describe(): NativeDescription;
  createBackend(options: {
    readonly kind: 'reference' | 'cpu';
    readonly isa: NativeIsa;
    readonly numThreads: number;
  }): NativeBackendHandle;
  /** Off the JavaScript thread: making a device's context may take a second. */
  createBackend(options: { readonly kind: 'cuda'; readonly deviceOrdinal: number }): Promise<NativeBackendHandle>;
}

/** In order of preference: each one runs wherever a later one does. */
export const CPU_ISAS = ['generic', 'avx2', 'avx512', 'avx512vnni'] as const;
export type NativeIsa = (typeof CPU_ISAS)[number];

export interface NativeDescription {
  /** Best instruction set of this processor for which kernels were built. */
  readonly isa: NativeIsa;
  readonly compiler: string;
  readonly buildType: string;
  readonly isCudaBuilt: boolean;
  /** An accessor: in a build with CUDA, reading it asks the driver about device 0. Never throws. */
  readonly cuda: NativeCudaDescription;
}

export interface NativeCudaDescription {
  /** CUDA kernels are part of this build. */
  readonly isBuilt: boolean;
  /** They are, and there is a driver and a device that runs them. */
  readonly isUsable: boolean;
  /** Why it is not usable. Not built: words that finish "this build has no CUDA kernels (…)"; else a sentence with the remedy. */
  readonly problem?: string;
  readonly name?: string;
  /** `9.0` */
  readonly computeCapability?: string;
  readonly memoryBytes?: number;
  /** Newest CUDA that the driver runs, e.g. `12.8`. */
  readonly driverVersion?: string;
  /** CUDA that this build was made with. */
  readonly runtimeVersion?: string;
}

export interface NativeWeightPart {
  readonly name: string;
  readonly kind: 'dense' | 'int4' | 'nested8';
  readonly dtype: 'f32' | 'f16' | 'bf16';
  readonly numRows: number;
  readonly numColumns: number;
  readonly groupSize: number;
  readonly radix: number;
  readonly hadamardBlock: number;
  readonly dense?: Uint8Array;
  readonly hi?: Int32Array;
  readonly lo?: Int32Array;
  readonly scales?: Uint16Array;
}

export interface NativeBackendHandle {
  createWeight(parts: readonly NativeWeightPart[]): Promise<{ readonly id: number; readonly bytes: number }>;
  createVector(values: Float32Array): number;
  createSession(spec: NativeSessionSpec): Promise<NativeSessionHandle>;
  measureReadBandwidth(): Promise<number>;
  describe(): { readonly description: string; readonly arch: string; readonly numThreads: number };
  readonly residentBytes: number;
  /** -1: it uses the system's memory, ask the system. Throws where a device doesn't answer. */
  readonly freeBytes: number;
  dispose(): void;
}

/** An op of `core` with handles replaced by ids. */
export type NativeOp = Readonly<Record<string, string | number | undefined>>;

export interface NativeProgram {
  readonly name: string;
  readonly buffers: readonly object[];
  readonly ops: readonly NativeOp[];
  readonly logits: number;
}

export interface NativeSessionSpec {
  readonly target: NativeProgram;
  readonly draft: NativeProgram | undefined;
  readonly kv: object;
  readonly vocabSize: number;
  readonly maxRows: number;
  readonly maxLogitRows: number;
}

export interface NativeForwardBatch {
  readonly isDraft: boolean;
  readonly pageOffsets: Int32Array;
  readonly pageIds: Int32Array;
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  readonly sequences: Int32Array;
  readonly maxAncestors: number;
  readonly ancestorStarts: Int32Array | undefined;
  readonly ancestorSlots: Int32Array | undefined;
  readonly logitRows: Int32Array;
  readonly labels: Int32Array | undefined;
}

export interface NativeForwardResult {
  readonly logits?: Float32Array;
  readonly logprobs?: Float64Array;
  readonly argmax: Int32Array;
}

/** Columns of {@link NativeRoundBatch.samplers}, one row a sequence. `bias…` and `history…` count into the flat arrays. */
export const SAMPLER_FIELDS = [
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'presencePenalty',
  'frequencyPenalty',
  'seed',
  'stream',
  'numPromptTokens',
  'numLogprobs',
  'numBias',
  'numHistory',
] as const;

export interface NativeRoundBatch {
  readonly pageOffsets: Int32Array;
  readonly pageIds: Int32Array;
  readonly tokenOffsets: Int32Array;
  readonly tokens: Int32Array;
  readonly startPositions: Int32Array;
  readonly emit: Uint8Array;
  readonly gammas: Int32Array;
  readonly draftTokens: Int32Array | undefined;
  /** [numSequences, SAMPLER_FIELDS.length] */
  readonly samplers: Float64Array;
  readonly biasIds: Int32Array;
  readonly biasValues: Float32Array;
  readonly history: Int32Array;
}

export interface NativeRoundResult {
  readonly tokenOffsets: Int32Array;
  readonly tokens: Int32Array;
  readonly numAccepted: Int32Array;
  /** [tokens.length] NaN where not asked for. */
  readonly logprobs: Float64Array;
  /** [tokens.length] alternatives of each token; they lie one after another in the next two. */
  readonly topCounts: Int32Array;
  readonly topTokens: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly draftMs: number;
  readonly verifyMs: number;
}

/** Time spent in one kind of op since profiling was switched on. */
export interface OpProfile {
  readonly program: 'target' | 'draft';
  /** Op name of `core`, or `sample`. */
  readonly op: string;
  readonly calls: number;
  readonly totalMs: number;
}

export interface NativeSessionHandle {
  forward(batch: NativeForwardBatch): Promise<NativeForwardResult>;
  round(batch: NativeRoundBatch): Promise<NativeRoundResult>;
  copyPages(from: Int32Array, to: Int32Array): Promise<void>;
  setProfiling(isOn: boolean): void;
  profile(): OpProfile[];
  readonly kvBytes: number;
  readonly scratchBytes: number;
  dispose(): void;
}
