import { ConfigError } from '@qspec/core';
import type { FinishEvent } from '@qspec/engine';
import type { Command } from 'commander';
import type { CliContext, Guard } from '../context.js';
import { loadLlm } from '../load-model.js';
import {
  addModelOptions,
  addSamplingOptions,
  type ModelOptions,
  type SamplingOptions,
  samplingFields,
} from '../options.js';
import { colorDrafted, describeSpeculation } from '../speculation-summary.js';

interface GenerateOptions extends ModelOptions, SamplingOptions {
  prompt?: string;
  chat?: boolean;
  showDraft?: boolean;
}

export function registerGenerate(program: Command, context: CliContext, guard: Guard): void {
  const command = program
    .command('generate')
    .description('continue a prompt (from --prompt or standard input)')
    .argument('<model>', 'artifact, Hugging Face folder or GGUF file')
    .option('-p, --prompt <text>', 'the prompt; without it, standard input is read')
    .option('--chat', 'the prompt is a user’s message: apply the chat template')
    .option('--show-draft', 'colour tokens that were drafted and accepted');
  addSamplingOptions(addModelOptions(command), 256).action(
    guard((model: string, options: GenerateOptions) =>
      generate(model, options, context, Boolean(program.opts()['json'])),
    ),
  );
}

async function generate(model: string, options: GenerateOptions, context: CliContext, json: boolean): Promise<void> {
  const prompt = options.prompt ?? (await readAll(context.stdin));
  if (prompt === '')
    throw new ConfigError('Expected a prompt but received none: pass --prompt or pipe text to standard input.');
  const { loaded, llm } = await loadLlm(model, options, context);
  await using _ = loaded;
  const input = options.chat ? { messages: [{ role: 'user', content: prompt }] } : { prompt };
  let finish: FinishEvent | undefined;
  for await (const event of llm.stream({ ...input, ...samplingFields(options), signal: context.interrupt.signal })) {
    if (event.type === 'finish') finish = event;
    else if (!json) context.stdout.write(options.showDraft ? colorDrafted(event, context.colors) : event.text);
  }
  if (!finish) return;
  if (json) {
    context.printJson(finish);
    return;
  }
  context.stdout.write('\n');
  const { timings, usage, speculation } = finish;
  context.note(
    `${usage.completionTokens} tokens (${finish.reason}), ${timings.decodeTokensPerSecond.toFixed(1)} tokens/s, first after ${timings.firstTokenMs.toFixed(0)} ms; ${describeSpeculation(speculation)}`,
  );
}

async function readAll(stream: NodeJS.ReadStream): Promise<string> {
  if (stream.isTTY) return '';
  let text = '';
  stream.setEncoding('utf8');
  for await (const chunk of stream) text += chunk;
  return text;
}
