import { type GroupSize, isQuantized } from '@qspec/core';
import type { JsonObject } from '../artifact-writer.js';
import type { ManifestTensor } from './manifest.js';

const NOTE =
  'Weights are stored for inputs multiplied by a block-Hadamard matrix. Tools that know only pack-quantized would compute nonsense, ' +
  'so quant_method does not claim compressed-tensors. qspec.json says which tensors are rotated and by which block.';

/**
 * `quantization_config` as compressed-tensors writes it for `pack-quantized`. Where a tensor is rotated the method is `qspec`
 * instead: a tool that cannot rotate inputs must refuse the checkpoint rather than load it.
 */
export function quantizationConfig(tensors: ReadonlyMap<string, ManifestTensor>): JsonObject | undefined {
  const modulesByGroup = new Map<GroupSize, string[]>();
  const ignore: string[] = [];
  let isRotated = false;
  for (const [name, { format, shape }] of tensors) {
    const module = name.replace(/\.weight$/, '');
    if (format.kind !== 'raw' && isQuantized(format)) {
      isRotated ||= format.hadamardBlock > 0;
      modulesByGroup.set(format.groupSize, [...(modulesByGroup.get(format.groupSize) ?? []), module]);
    } else if (shape.length === 2 && !module.endsWith('embed_tokens')) {
      ignore.push(module);
    }
  }
  if (modulesByGroup.size === 0) return undefined;
  return {
    quant_method: isRotated ? 'qspec' : 'compressed-tensors',
    format: 'pack-quantized',
    quantization_status: 'compressed',
    ...(isRotated && { note: NOTE }),
    config_groups: configGroups(modulesByGroup),
    ignore,
  };
}

function configGroups(modulesByGroup: ReadonlyMap<GroupSize, readonly string[]>): JsonObject {
  const groups = [...modulesByGroup].map(([groupSize, modules], index): [string, JsonObject] => {
    const isEveryLinear = modulesByGroup.size === 1 && modules.every((module) => !module.endsWith('embed_tokens'));
    return [
      `group_${index}`,
      {
        targets: isEveryLinear ? ['Linear'] : modules,
        weights: {
          num_bits: 4,
          type: 'int',
          symmetric: true,
          strategy: 'group',
          group_size: groupSize,
          dynamic: false,
        },
      },
    ];
  });
  return Object.fromEntries(groups);
}
