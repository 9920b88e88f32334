import type { JsonObject } from '../artifact-writer.js';
import { FORMAT_VERSION, MANIFEST_FORMAT, type ManifestFile, type ManifestTensor, sealManifest } from './manifest.js';

/** `qspec.json` as bytes: what the reader's `parseManifest` takes apart again. */
export function manifestBytes(
  tensors: ReadonlyMap<string, ManifestTensor>,
  files: ReadonlyMap<string, ManifestFile>,
  extra: { readonly recipe: JsonObject; readonly calibration?: JsonObject; readonly report: JsonObject | undefined },
): Uint8Array {
  return sealManifest({
    format: MANIFEST_FORMAT,
    format_version: FORMAT_VERSION,
    recipe: extra.recipe,
    calibration: extra.calibration ?? null,
    report: extra.report ?? null,
    tensors: Object.fromEntries([...tensors].map(([name, tensor]) => [name, tensorFields(tensor)])),
    files: Object.fromEntries([...files].map(([name, file]) => [name, fileFields(file)])),
  });
}

function tensorFields({ format, shape, parts }: ManifestTensor): JsonObject {
  return { ...formatFields(format), shape, parts: Object.fromEntries(parts) };
}

function formatFields(format: ManifestTensor['format']): JsonObject {
  if (format.kind === 'raw') return { format: format.kind };
  if (format.kind === 'dense') return { format: format.kind, dtype: format.dtype };
  const { kind, groupSize, hadamardBlock } = format;
  const base = { format: kind, group_size: groupSize, hadamard_block: hadamardBlock };
  return format.kind === 'nested8' ? { ...base, radix: format.radix } : base;
}

function fileFields({ bytes, sha256, headerSha256 }: ManifestFile): JsonObject {
  return { bytes, sha256, ...(headerSha256 !== undefined && { header_sha256: headerSha256 }) };
}
