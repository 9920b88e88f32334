/** Most tokens of an answer; nearly all end before. */
const MAX_TOKENS = 160;

/** Every kind of sampling parameter. */
const SAMPLED = [
  { temperature: 0.8, topP: 0.9 },
  { temperature: 1.2, topK: 20, minP: 0.02, repetitionPenalty: 1.1 },
  { temperature: 0.7, presencePenalty: 0.4, frequencyPenalty: 0.2 },
  { temperature: 1, logitBias: { 10: 2, 20: -3 }, n: 2 },
];

/** Each problem twice, so that batches mix both: greedily, and sampled with a seed of its own. */
export function makeRequests(problems) {
  return problems.flatMap(({ question }, i) => {
    const request = { messages: [{ role: 'user', content: question }], maxTokens: MAX_TOKENS };
    return [
      { kind: 'greedy', request: { ...request, temperature: 0 } },
      { kind: 'sampled', request: { ...request, ...SAMPLED[i % SAMPLED.length], seed: 1000 + i } },
    ];
  });
}
