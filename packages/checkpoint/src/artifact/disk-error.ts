import { CheckpointError } from '@qspec/core';
import { errorCode } from '../byte-file.js';

const REMEDIES: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full. Free space there or write to another disk',
  EDQUOT: 'the disk quota is used up. Free space there or write to another disk',
  EFBIG: 'the file system does not take files this large. Lower `maxShardBytes` or write to another disk',
  EACCES: 'permission was denied. Choose a folder that you may write to',
  EPERM: 'permission was denied. Choose a folder that you may write to',
  EROFS: 'the file system is read-only. Choose another folder',
  ENOENT: 'the folder that should hold it does not exist. Create it first',
  EIO: 'the disk reported an input/output error. Check it, or write to another one',
};

/** Nothing is left behind where this is thrown: it says so. */
export function diskError(path: string, cause: unknown): CheckpointError {
  if (cause instanceof CheckpointError) return cause;
  const code = errorCode(cause);
  const remedy = (code && REMEDIES[code]) ?? (cause instanceof Error ? cause.message : String(cause));
  return new CheckpointError(
    `Expected to write the artifact \`${path}\` but ${remedy}. Nothing was left behind.`,
    { path, ...(code && { reason: code }) },
    cause,
  );
}
