export { createArtifactWriter } from './artifact/create-artifact-writer.js';
export { type ArtifactFileSystem, nodeFileSystem, type WritableFile } from './artifact/file-system.js';
export { verifyArtifact } from './artifact/open-artifact.js';
export type * from './artifact-writer.js';
export type * from './checkpoint.js';
export { parseModelConfig } from './config/parse-model-config.js';
export { expectShape, requiredTensors, validateModelTensors } from './model-tensors.js';
export { openCheckpoint } from './open-checkpoint.js';
