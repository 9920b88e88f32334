/**
 * The first key that a JSON object has twice at its top level (`JSON.parse` would silently keep the last), or undefined.
 * `text` must be valid JSON with an object at the top.
 */
export function duplicateKey(text: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '{' || character === '[') isKey = ++depth === 1;
    else if (character === '}' || character === ']') depth--;
    else if (character === ',') isKey = depth === 1;
    else if (character === '"') {
      const end = endOfString(text, at);
      if (isKey) {
        const key: string = JSON.parse(text.slice(at, end));
        if (seen.has(key)) return key;
        seen.add(key);
        isKey = false;
      }
      at = end - 1;
    }
  }
  return undefined;
}

/** Index behind the closing quote of the string that opens at `begin`. */
function endOfString(text: string, begin: number): number {
  let at = begin + 1;
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at + 1;
}
