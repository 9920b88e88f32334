import { ConfigError, type ExecutionMode, isQuantized, isTargetMode } from '@qspec/core';
import { layerFormats, type ResidentModel } from './resident-model.js';

/** What the layers' weights are made of, as far as modes care. */
export type WeightKind = 'dense' | 'int4' | 'nested8';

/** The kind that decides: nested8 if every quantised layer is, int4 if any layer is, else dense. */
export function weightKind(model: ResidentModel): WeightKind {
  const quantized = layerFormats(model).filter(isQuantized);
  if (quantized.length === 0) return 'dense';
  return quantized.every((format) => format.kind === 'nested8') ? 'nested8' : 'int4';
}

/** The most precise target that the weights give. */
export function defaultTargetMode(kind: WeightKind): ExecutionMode {
  return kind === 'dense' ? 'w16a16' : kind === 'int4' ? 'w4a16' : 'w8a16';
}

/** @throws ConfigError with a remedy when `mode` can't run on the model's weights. */
export function assertModeFits(model: ResidentModel, mode: ExecutionMode): void {
  const kind = weightKind(model);
  const allowed = MODES[kind];
  if (allowed.includes(mode)) return;
  const remedy =
    kind === 'dense' && !isTargetMode(mode)
      ? 'Quantise the checkpoint first (`qspec quantize`), then load the artifact.'
      : `These weights run as ${allowed.join(', ')}.`;
  throw new ConfigError(
    `Expected the execution mode to fit weights of kind ${kind} but received ${String(mode)}. ${remedy}`,
    { option: 'mode', received: mode, weightKind: kind },
  );
}

const MODES: Readonly<Record<WeightKind, readonly ExecutionMode[]>> = {
  dense: ['w16a16'],
  int4: ['w4a16', 'w4a8', 'w4a4'],
  nested8: ['w8a16', 'w4a16', 'w4a8', 'w4a4'],
};
