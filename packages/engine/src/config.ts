import {
  type ActivationGranularity,
  type BackendName,
  ConfigError,
  type ExecutionMode,
  expectInteger,
  isTargetMode,
  type KvFormat,
} from '@qspec/core';
import { defaultBatchedTokens } from './device-limits.js';
import { defaultTargetMode, type WeightKind } from './mode-check.js';

export type DraftChoice = 'auto' | 'none' | 'w4a4' | 'w4a8';

/** How a model is run: modes, speculation, batching, memory. */
export interface LlmOptions {
  /** What verifies and decides. `auto` (default): w4a16 for int4 weights, w8a16 for nested8, w16a16 for dense. A draft mode runs the draft alone. */
  target?: ExecutionMode | 'auto';
  /** What proposes. `auto` (default): w4a8 under a w8a16 target (it reads half the bytes), else none. */
  draft?: DraftChoice;
  /** Scales of integer activations: one a token, or one a weight group (default). */
  draftGranularity?: ActivationGranularity;
  /** What the draft's head computes: see `ProgramOptions.headArithmetic`. Default `float`. */
  draftHead?: 'float' | 'integer';
  /** Draft tokens a round, 0-64; 0 = plain decoding. Default 3 with a draft. Never changes the text. */
  gamma?: number;
  /** Longest sequence in tokens. Default: the model's own limit, or what fits the memory. */
  maxContext?: number;
  /** Most rows of one round, prompt chunks included. Default 256, on CUDA 1024: a long prompt is through in fewer, longer rounds. */
  maxBatchedTokens?: number;
  /** Most requests that run at once; more wait. Default 16. */
  maxRunning?: number;
  /** Default `bf16`. `f32` is the CPU's alone, `int8-nested` CUDA's. */
  kvFormat?: KvFormat;
  /** Tokens a KV page: 16 (default), 32 or 64. */
  pageSize?: number;
  /**
   * Size of the KV pool in tokens. Default: enough for `maxRunning` contexts within half of the memory that is free once the weights are
   * there, and on the CPU within 1 GiB (or one context).
   */
  kvCacheTokens?: number;
  /** Share the KV pages of equal prompt beginnings. Default true. */
  prefixCaching?: boolean;
}

export interface ResolvedLlmOptions {
  readonly target: ExecutionMode;
  /** Absent: plain decoding only. */
  readonly draft: ExecutionMode | undefined;
  readonly draftGranularity: ActivationGranularity;
  readonly draftHead: 'float' | 'integer';
  readonly gamma: number;
  readonly maxContext: number | undefined;
  readonly maxBatchedTokens: number;
  readonly maxRunning: number;
  readonly kvFormat: KvFormat;
  readonly pageSize: number;
  readonly kvCacheTokens: number | undefined;
  readonly prefixCaching: boolean;
}

const DEFAULT_GAMMA = 3;
const MAX_GAMMA = 64;
const MAX_INT32 = 2 ** 31 - 1;

/** Fills in defaults for weights of `kind` on `backend` and checks every option. @throws ConfigError naming the option, what is allowed and what came. */
export function resolveLlmOptions(
  options: LlmOptions,
  kind: WeightKind,
  backend: BackendName = 'cpu',
): ResolvedLlmOptions {
  const maxRunning = options.maxRunning ?? 16;
  const target = resolveTarget(options.target ?? 'auto', kind);
  const draft = resolveDraft(options.draft ?? 'auto', target, kind);
  const gamma = options.gamma ?? (draft ? DEFAULT_GAMMA : 0);
  expectInteger('gamma', gamma, 0, MAX_GAMMA);
  if (gamma > 0 && !draft) throw gammaWithoutDraft(gamma);
  expectInteger('maxRunning', maxRunning, 1, 4096);
  const maxBatchedTokens =
    options.maxBatchedTokens ?? Math.max(defaultBatchedTokens(backend), maxRunning * (gamma + 1));
  expectInteger('maxBatchedTokens', maxBatchedTokens, maxRunning, MAX_INT32);
  if (options.maxContext !== undefined) expectInteger('maxContext', options.maxContext, 2, MAX_INT32);
  if (options.kvCacheTokens !== undefined) expectInteger('kvCacheTokens', options.kvCacheTokens, 1, MAX_INT32);
  return {
    target,
    draft,
    draftGranularity: oneOf('draftGranularity', options.draftGranularity ?? 'group', ['token', 'group']),
    draftHead: oneOf('draftHead', options.draftHead ?? 'float', ['float', 'integer']),
    gamma,
    maxContext: options.maxContext,
    maxBatchedTokens,
    maxRunning,
    kvFormat: oneOf('kvFormat', options.kvFormat ?? 'bf16', ['f32', 'bf16', 'int8', 'int8-nested']),
    pageSize: oneOf('pageSize', options.pageSize ?? 16, [16, 32, 64]),
    kvCacheTokens: options.kvCacheTokens,
    prefixCaching: oneOf('prefixCaching', options.prefixCaching ?? true, [true, false]),
  };
}

function resolveTarget(target: ExecutionMode | 'auto', kind: WeightKind): ExecutionMode {
  const mode = oneOf('target', target, ['auto', 'w16a16', 'w8a16', 'w4a16', 'w4a8', 'w4a4']);
  return mode === 'auto' ? defaultTargetMode(kind) : mode;
}

function resolveDraft(draft: DraftChoice, target: ExecutionMode, kind: WeightKind): ExecutionMode | undefined {
  const choice = oneOf('draft', draft, ['auto', 'none', 'w4a4', 'w4a8']);
  if (choice === 'none') return undefined;
  if (choice === 'auto') return target === 'w8a16' ? 'w4a8' : undefined;
  if (kind === 'dense') {
    throw new ConfigError(
      `Expected \`draft\` to be none for dense weights but received ${choice}. Quantise the checkpoint first (\`qspec quantize\`), then load the artifact.`,
      { option: 'draft', received: choice },
    );
  }
  if (!isTargetMode(target)) {
    throw new ConfigError(
      `Expected \`draft\` to be none when a draft mode (${target}) runs alone but received ${choice}. Choose a target with 16-bit activations.`,
      { option: 'draft', received: choice, target },
    );
  }
  return choice;
}

function gammaWithoutDraft(gamma: number): ConfigError {
  return new ConfigError(
    `Expected \`gamma\` to be 0 without a draft but received ${gamma}. Choose \`draft\`: "w4a8" or "w4a4" (quantised weights only).`,
    { option: 'gamma', received: gamma },
  );
}

function oneOf<const T>(option: string, value: unknown, allowed: readonly T[]): T {
  const found = allowed.find((item) => item === value);
  if (found !== undefined) return found;
  throw new ConfigError(
    `Expected \`${option}\` to be one of ${allowed.map(String).join(', ')} but received ${String(value)}.`,
    { option, received: value },
  );
}
