import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ByteFile } from './byte-file.js';
import { CHUNK_BYTES } from './limits.js';
import { FileRegion, type Region, streamRegion } from './region.js';

/** Hex digests, computed a piece at a time: the event loop gets its turn between them. */
export async function sha256OfBytes(bytes: Uint8Array): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes.byteLength; at += CHUNK_BYTES) {
    if (at > 0) await nextTurn();
    hash.update(bytes.subarray(at, at + CHUNK_BYTES));
  }
  return hash.digest('hex');
}

export async function sha256OfRegion(region: Region): Promise<string> {
  const hash = createHash('sha256');
  await streamRegion(region, 0, region.byteLength, CHUNK_BYTES, (chunk) => hash.update(chunk));
  return hash.digest('hex');
}

export async function sha256OfFile(path: string): Promise<string> {
  const file = await ByteFile.open(path);
  try {
    return await sha256OfRegion(new FileRegion(path, file, 0, file.size));
  } finally {
    await file.close();
  }
}
