/** Where two lists of results first emit different tokens; undefined: nowhere. */
export function firstDifference(expected, actual) {
  for (const [request, { completions }] of expected.entries()) {
    for (const [sample, { tokenIds }] of completions.entries()) {
      const other = actual[request]?.completions[sample]?.tokenIds ?? [];
      const length = Math.max(tokenIds.length, other.length);
      for (let token = 0; token < length; token++) {
        if (tokenIds[token] !== other[token]) {
          return { request, sample, token, expected: tokenIds[token], actual: other[token] };
        }
      }
    }
  }
  return undefined;
}

export function describeDifference({ request, sample, token, expected, actual }) {
  const place = `request ${request}${sample ? `, sample ${sample}` : ''}, token ${token}`;
  return `${place}: expected ${expected ?? 'the end'}, received ${actual ?? 'the end'}`;
}

/** How many requests emitted the same tokens. */
export function numSame(expected, actual) {
  return expected.filter((result, i) => !firstDifference([result], [actual[i]])).length;
}
