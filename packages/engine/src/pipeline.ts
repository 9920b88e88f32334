import type { KernelBackend, Session } from '@qspec/core';
import { KvCacheManager } from '@qspec/kv-cache';
import { Scheduler } from '@qspec/scheduler';
import type { ResolvedLlmOptions } from './config.js';
import { defaultKvBytes, expectKvFormat } from './device-limits.js';
import { Engine } from './engine.js';
import { type MemoryPlan, planMemory } from './memory-plan.js';
import { recordProgram } from './program-builder.js';
import type { ResidentModel } from './resident-model.js';

/** Everything between a resident model and its round loop. Each part is usable alone; this is how they are put together. */
export interface Pipeline {
  readonly session: Session;
  readonly kvCache: KvCacheManager;
  readonly scheduler: Scheduler;
  readonly engine: Engine;
  readonly memory: MemoryPlan;
  /** Most rows with logits in one forward pass. */
  readonly maxLogitRows: number;
}

/** Logit rows that evaluation gets at least, however small the batch. */
const MIN_LOGIT_ROWS = 64;

/** @throws ConfigError, UnsupportedFormatError, OutOfMemoryError */
export async function createPipeline(
  backend: KernelBackend,
  model: ResidentModel,
  options: ResolvedLlmOptions,
): Promise<Pipeline> {
  expectKvFormat(backend.name, options.kvFormat);
  const { draftGranularity: granularity, draftHead: headArithmetic, gamma, maxRunning, maxBatchedTokens } = options;
  const target = recordProgram(model, { mode: options.target, granularity, headArithmetic });
  const draft = options.draft && recordProgram(model, { mode: options.draft, granularity, headArithmetic });
  const memory = planMemory({
    config: model.config,
    kvFormat: options.kvFormat,
    pageSize: options.pageSize,
    maxContext: options.maxContext ?? model.config.maxPositionEmbeddings,
    isContextFixed: options.maxContext !== undefined,
    maxRunning,
    maxDraftLen: gamma + 1,
    freeBytes: backend.device.freeBytes,
    defaultKvBytes: defaultKvBytes(backend.name),
    kvCacheTokens: options.kvCacheTokens,
  });
  const maxLogitRows = Math.min(maxBatchedTokens, Math.max(maxRunning * (gamma + 1), MIN_LOGIT_ROWS));
  const session = await backend.createSession({
    target,
    ...(draft ? { draft } : {}),
    kv: memory.kv,
    vocabSize: model.config.vocabSize,
    maxRows: maxBatchedTokens,
    maxLogitRows,
  });
  const kvCache = new KvCacheManager({ ...memory.kv, prefixCache: options.prefixCaching });
  const scheduler = new Scheduler({
    allocator: kvCache,
    maxBatchedTokens,
    maxRunning,
    maxSequenceLen: memory.maxContext,
    gamma,
  });
  return { session, kvCache, scheduler, engine: new Engine({ scheduler, kvCache, session }), memory, maxLogitRows };
}
