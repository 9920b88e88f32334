import type { ArchitectureName } from '@qspec/core';
import type { ConfigFields } from './config-fields.js';

const MAX_WINDOW = 2 ** 30;
const DEFAULT_WINDOW = 4096;

/** Window of each layer in tokens, 0 = full attention, by the rules of `transformers`. */
export function parseSlidingWindows(architecture: ArchitectureName, config: ConfigFields, numLayers: number): number[] {
  const full = new Array<number>(numLayers).fill(0);
  if (architecture === 'llama') return full;
  if (architecture === 'mistral') {
    // null means full attention; absent means the class's default.
    if (config.isNull('sliding_window')) return full;
    return full.fill(config.integer('sliding_window', 1, MAX_WINDOW, DEFAULT_WINDOW));
  }
  if (!config.boolean('use_sliding_window', false) || config.isNull('sliding_window')) return full;
  const window = config.integer('sliding_window', 1, MAX_WINDOW, DEFAULT_WINDOW);
  const layerTypes = config.raw('layer_types');
  if (layerTypes !== undefined) {
    return expectLayerTypes(config, layerTypes, numLayers).map((type) => (type === 'sliding_attention' ? window : 0));
  }
  const firstWindowed = config.integer('max_window_layers', 0, MAX_WINDOW, 28);
  return full.map((_, layer) => (layer >= firstWindowed ? window : 0));
}

function expectLayerTypes(config: ConfigFields, value: unknown, numLayers: number): string[] {
  const isValid =
    Array.isArray(value) &&
    value.length === numLayers &&
    value.every((type) => type === 'sliding_attention' || type === 'full_attention');
  if (isValid) return value;
  throw config.invalid('layer_types', `${numLayers} of \`full_attention\` and \`sliding_attention\``, value);
}
