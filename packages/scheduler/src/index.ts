export { CountingAllocator } from './counting-allocator.js';
export type { EntryResult, FailedRequest, FinishedRequest, ScheduledBatch, ScheduledEntry } from './scheduled-batch.js';
export { Scheduler, type SchedulerStats } from './scheduler.js';
export type { NewRequest, SchedulerOptions } from './scheduler-options.js';
export {
  type SimulatedOutcome,
  type SimulatedRequest,
  type SimulationOptions,
  type SimulationReport,
  simulate,
} from './simulator.js';
export { AcceptanceStats, type AcceptanceSummary, type PositionAcceptance } from './speculation/acceptance.js';
export type { DraftContext, Drafter } from './speculation/drafter.js';
export { FixedGamma, MAX_GAMMA } from './speculation/fixed-gamma.js';
export { SyntheticDevice, type SyntheticDeviceOptions } from './synthetic-device.js';
