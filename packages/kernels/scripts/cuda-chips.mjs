import { spawnSync } from 'node:child_process';

/** Every chip that the CUDA kernels are written for, and PTX that newer ones compile when they load it. */
const ALL = '80-real;86-real;89-real;90a-real;90-virtual';

/**
 * What to compile CUDA for, as CMake's `QSPEC_CUDA_ARCHITECTURES`: all chips when `isFat`, else the GPUs of this machine,
 * else (it has none) Hopper. One chip takes a minute or two, all of them several times that.
 */
export function cudaChips(isFat) {
  if (isFat) return ALL;
  const query = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' });
  const found = (query.stdout ?? '').split('\n').map((line) => Number(line.trim().replace('.', '')));
  const chips = new Set(found.filter((chip) => chip >= 80).map(nameOf));
  return chips.size > 0 ? [...chips].join(';') : nameOf(90);
}

function nameOf(chip) {
  if (chip === 90) return '90a-real';
  return chip > 90 ? '90-virtual' : `${chip}-real`;
}
