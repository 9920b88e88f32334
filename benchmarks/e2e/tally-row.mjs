import { median } from '../../apps/cli/src/bench/interleaved.ts';

/** What they mean: benchmarks/README.md. */
export const COLUMNS = [
  ...['device', 'commit', 'model', 'num_layers', 'hidden_size', 'weights', 'target', 'draft', 'kv', 'batch', 'gamma'],
  ...['requests', 'runs', 'plain_tokens_s', 'speculative_tokens_s', 'ratio'],
  ...['acceptance', 'acceptance_by_position', 'mean_accepted_len', 'identical'],
  ...['step_bytes', 'read_gb_s', 'plain_share_of_limit'],
];

/** A pair's samples (plain first, then speculative if it has a draft) as a row. */
export function toRow({ device, commit, config, name, target, draft, kv, batch, waves, runs, samples, limit }) {
  const [plain, speculative] = samples;
  const plainRate = median(plain.tokensPerSecond);
  return {
    ...{ device, commit, model: 'tally-10m', num_layers: config.numLayers, hidden_size: config.hiddenSize },
    ...{ weights: name, target, draft, kv, batch, gamma: speculative?.gamma ?? 0, requests: waves.flat().length, runs },
    plain_tokens_s: plainRate.toFixed(1),
    ...(speculative && speculativeCells(speculative, plainRate)),
    step_bytes: limit.bytesPerStep,
    read_gb_s: (limit.bytesPerSecond / 1e9).toFixed(1),
    ...(batch === 1 && { plain_share_of_limit: (plainRate / limit.stepsPerSecond).toFixed(4) }),
  };
}

function speculativeCells({ tokensPerSecond, speculation, isIdentical }, plainRate) {
  const rate = median(tokensPerSecond);
  return {
    speculative_tokens_s: rate.toFixed(1),
    ratio: (rate / plainRate).toFixed(3),
    acceptance: speculation.acceptanceRate.toFixed(4),
    acceptance_by_position: speculation.acceptanceByPosition.map((share) => share.toFixed(4)).join(' '),
    mean_accepted_len: speculation.meanAcceptedLength.toFixed(3),
    identical: isIdentical ? 'yes' : 'no',
  };
}
