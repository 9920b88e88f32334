import type { SpeculationStats, TextDelta } from '@qspec/engine';
import { type Colors, formatPercent } from './render.js';

/** `acceptance 87.5 % (by position: 95 %, 90 %, …), 3.91 tokens a round` */
export function describeSpeculation(stats: SpeculationStats): string {
  if (stats.proposedTokens === 0) return 'no speculation';
  const byPosition = stats.acceptanceByPosition.map((share) => `${(100 * share).toFixed(0)} %`).join(', ');
  return `acceptance ${formatPercent(stats.acceptanceRate)} (by position: ${byPosition}), ${stats.meanAcceptedLength.toFixed(2)} tokens a round`;
}

/** The delta's text, in another colour where all of its tokens were drafted and accepted. */
export function colorDrafted(delta: TextDelta, colors: Colors): string {
  const isDrafted = delta.drafted.length > 0 && delta.drafted.every(Boolean);
  return isDrafted ? colors.cyan(delta.text) : delta.text;
}
