/** Lone surrogates cannot be written in UTF-8; they become U+FFFD, as everywhere else on the web platform. */
export function toWellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\uFFFD');
}
