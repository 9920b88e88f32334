import { DeviceError } from '@qspec/core';
import { createBackend } from '@qspec/kernels';
import { SKIPPED } from './child.mjs';

/** The backend of `device`; where there is none this process ends with one sentence and {@link SKIPPED}. */
export async function openDevice(device) {
  try {
    return (await createBackend({ device })).backend;
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    process.stdout.write(`skipped: ${error.message}\n`);
    return process.exit(SKIPPED);
  }
}
