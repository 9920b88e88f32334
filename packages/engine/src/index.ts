export {
  type Architecture,
  type DecoderTraits,
  decoderTensors,
  findArchitecture,
  type LayerTensors,
  type LinearTensors,
  type ModelTensors,
} from './architectures/index.js';
export { type DraftChoice, type LlmOptions, type ResolvedLlmOptions, resolveLlmOptions } from './config.js';
export { Engine, type EngineOptions } from './engine.js';
export { EventQueue } from './event-queue.js';
export { Generation, type GenerationListener, type GenerationOptions } from './generation.js';
export { type GenerateResult, LLM, type LlmStats } from './llm.js';
export { KV_DEFAULT_BYTES, KV_MEMORY_SHARE, type MemoryPlan, type MemoryRequest, planMemory } from './memory-plan.js';
export { assertModeFits, defaultTargetMode, type WeightKind, weightKind } from './mode-check.js';
export { checkpointTensors, Model, type ModelOptions } from './model.js';
export { type LoadModelOptions, type LoadProgress, loadModel, type TensorProvider } from './model-loader.js';
export { type Assembled, type AssemblerOptions, type Detokenizer, OutputAssembler } from './output-assembler.js';
export { createPipeline, type Pipeline } from './pipeline.js';
export { type ProgramOptions, recordProgram } from './program-builder.js';
export { type GenerateRequest, type ResolvedRequest, resolveRequest } from './request.js';
export type {
  Completion,
  FinishEvent,
  FinishReason,
  GenerateEvent,
  SpeculationStats,
  TextDelta,
  Timings,
  Usage,
} from './request-output.js';
export { layerFormats, type ResidentLayer, type ResidentLinear, type ResidentModel } from './resident-model.js';
export { type RopeTable, ropeTable } from './rope.js';
export { encodeRound, type SamplerSource } from './round-batch.js';
export {
  type PerplexityOptions,
  type PerplexityResult,
  type ScoreOptions,
  scoreSequence,
  windowedPerplexity,
} from './scoring.js';
export { type StopCheck, StopStringMatcher } from './stop-strings.js';
