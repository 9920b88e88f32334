export type * from './artifact-writer.js';
export type * from './checkpoint.js';
