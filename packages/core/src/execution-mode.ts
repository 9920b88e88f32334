/**
 * How the linear layers of one program compute. The same resident weights serve every mode.
 * `w16a16`: dense weights, 16-bit (or wider) activations.
 * `w4a16`, `w8a16`: quantised weights (int4; nested8 in full), 16-bit (or wider) activations: target modes.
 * `w4a8`, `w4a4`: the 4-bit plane with integer activations: draft modes.
 */
export type ExecutionMode = 'w16a16' | 'w8a16' | 'w4a16' | 'w4a8' | 'w4a4';

/** One scale for each token (over all of K), or one for each weight group along K. */
export type ActivationGranularity = 'token' | 'group';

/** Bits of the activations' integer codes in `mode`; 16 means floating point. */
export function activationBits(mode: ExecutionMode): 4 | 8 | 16 {
  return mode === 'w4a4' ? 4 : mode === 'w4a8' ? 8 : 16;
}

/** Floating-point activations: results are row-invariant bit for bit, so the mode may be a target. */
export function isTargetMode(mode: ExecutionMode): boolean {
  return activationBits(mode) === 16;
}
