import { expectInteger } from '@qspec/core';
import type { LlmOptions } from '@qspec/engine';
import { type Command, InvalidArgumentError, Option } from 'commander';

/** Options of every command that loads a model, as commander parsed them. */
export interface ModelOptions {
  device: 'auto' | 'cpu' | 'cuda' | 'reference';
  threads?: number;
  target?: 'w16a16' | 'w8a16' | 'w4a16' | 'w4a8' | 'w4a4';
  draft: 'auto' | 'none' | 'w4a8' | 'w4a4';
  draftGranularity: 'token' | 'group';
  gamma?: number;
  context?: number;
  kv: 'bf16' | 'f32' | 'int8' | 'int8-nested';
}

/** Options of every command that samples. */
export interface SamplingOptions {
  maxTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  seed: number;
  stop: string[];
}

export function addModelOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--device <name>',
        'where to compute (auto: an NVIDIA GPU where build and machine have one, else the CPU)',
      )
        .choices(['auto', 'cpu', 'cuda', 'reference'])
        .default('auto'),
    )
    .option('--threads <n>', 'worker threads of the CPU (default: physical cores)', number)
    .addOption(
      new Option('--target <mode>', 'arithmetic that decides the text (default: what the weights are)').choices([
        'w16a16',
        'w8a16',
        'w4a16',
        'w4a8',
        'w4a4',
      ]),
    )
    .addOption(
      new Option('--draft <mode>', 'arithmetic that drafts (auto: w4a8 under an 8-bit nested target)')
        .choices(['auto', 'none', 'w4a8', 'w4a4'])
        .default('auto'),
    )
    .addOption(
      new Option('--draft-granularity <what>', 'one activation scale a token, or one a weight group')
        .choices(['token', 'group'])
        .default('group'),
    )
    .option('--gamma <n>', 'tokens drafted a round; 0 = plain decoding', number)
    .option('--context <tokens>', 'longest context (default: the model’s, as memory allows)', number)
    .addOption(
      new Option('--kv <format>', 'KV cache format (f32: CPU only, int8-nested: CUDA only)')
        .choices(['bf16', 'f32', 'int8', 'int8-nested'])
        .default('bf16'),
    );
}

export function addSamplingOptions(command: Command, maxTokens: number): Command {
  return command
    .option('-n, --max-tokens <n>', 'most new tokens', number, maxTokens)
    .option('-t, --temperature <x>', '0 = greedy', number, 0)
    .option('--top-k <n>', 'keep the k most likely tokens; 0 = all', number, 0)
    .option('--top-p <x>', 'keep the smallest set of this probability', number, 1)
    .option('--min-p <x>', 'keep tokens this share as likely as the best', number, 0)
    .option('--repetition-penalty <x>', '1 = off', number, 1)
    .option('--presence-penalty <x>', '0 = off', number, 0)
    .option('--frequency-penalty <x>', '0 = off', number, 0)
    .option('--seed <n>', 'random stream', number, 0)
    .option('--stop <text...>', 'stop before this text', []);
}

/** The backend's options for what was asked on the command line. */
export function backendOptions({ device, threads }: Pick<ModelOptions, 'device' | 'threads'>) {
  return { device, ...(threads !== undefined && { numThreads: threads }) };
}

/** The engine's options for what was asked on the command line. */
export function llmOptions(options: ModelOptions): LlmOptions {
  const { target, draft, draftGranularity, gamma, context, kv } = options;
  if (gamma !== undefined) expectInteger('gamma', gamma, 0, 64);
  return {
    ...(target !== undefined && { target }),
    draft,
    draftGranularity,
    ...(gamma !== undefined && draft !== 'none' && { gamma }),
    ...(context !== undefined && { maxContext: context }),
    kvFormat: kv,
  };
}

/** A request's sampling fields. */
export function samplingFields(options: SamplingOptions) {
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, seed, stop } =
    options;
  return { maxTokens, temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, seed, stop };
}

/** Any number, NaN included: ranges are checked, and named, by the engine. Text that is none is refused here. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || (Number.isNaN(value) && text.toLowerCase() !== 'nan'))
    throw new InvalidArgumentError(`“${text}” is not a number.`);
  return value;
}
