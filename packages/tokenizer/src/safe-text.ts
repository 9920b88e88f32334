/** Lone surrogates cannot be written in UTF-8; they become U+FFFD, as everywhere else on the web platform. */
export function toWellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\uFFFD');
}

const ASTRAL_CJK =
  /[\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{2F800}-\u{2FA1F}]/gu;

/** BERT's normalizer sets Chinese characters apart; the JavaScript library misses those beyond the basic plane. */
export function separateAstralCjk(text: string): string {
  return text.replace(ASTRAL_CJK, ' $& ');
}
