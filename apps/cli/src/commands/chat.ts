import { createInterface } from 'node:readline/promises';
import { RequestAbortedError } from '@qspec/core';
import type { FinishEvent, LLM } from '@qspec/engine';
import type { ChatMessage } from '@qspec/tokenizer';
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

interface ChatOptions extends ModelOptions, SamplingOptions {
  system?: string;
  showDraft?: boolean;
}

export function registerChat(program: Command, context: CliContext, guard: Guard): void {
  const command = program
    .command('chat')
    .description('talk to a model; /reset forgets, /exit leaves, Ctrl-C stops an answer')
    .argument('<model>', 'artifact, Hugging Face folder or GGUF file')
    .option('--system <text>', 'system message')
    .option('--show-draft', 'colour tokens that were drafted and accepted');
  addSamplingOptions(addModelOptions(command), 512).action(
    guard((model: string, options: ChatOptions) => chat(model, options, context)),
  );
}

async function chat(model: string, options: ChatOptions, context: CliContext): Promise<void> {
  const { loaded, llm } = await loadLlm(model, options, context);
  await using _ = loaded;
  const opening: ChatMessage[] = options.system === undefined ? [] : [{ role: 'system', content: options.system }];
  let messages = [...opening];
  for await (const line of questions(context)) {
    if (line === '/exit') break;
    if (line === '/reset') {
      messages = [...opening];
      context.note('(forgotten)');
      continue;
    }
    if (line.trim() === '') continue;
    messages.push({ role: 'user', content: line });
    const answer = await speak(llm, messages, options, context);
    messages.push({ role: 'assistant', content: answer });
  }
}

/** Streams one answer and its figures; an interrupt ends the answer, not the conversation. */
async function speak(llm: LLM, messages: ChatMessage[], options: ChatOptions, context: CliContext): Promise<string> {
  const abort = new AbortController();
  context.onInterrupt = () => abort.abort();
  let text = '';
  try {
    for await (const event of llm.stream({ messages, ...samplingFields(options), signal: abort.signal })) {
      if (event.type === 'finish') {
        context.stdout.write('\n');
        context.note(context.colors.dim(figures(event)));
        return event.text;
      }
      text += event.text;
      context.stdout.write(options.showDraft ? colorDrafted(event, context.colors) : event.text);
    }
  } catch (error) {
    if (!(error instanceof RequestAbortedError)) throw error;
    context.note('\n(stopped)');
  } finally {
    context.onInterrupt = undefined;
  }
  return text;
}

function figures({ usage, timings, speculation }: FinishEvent): string {
  return `[${usage.completionTokens} tokens, ${timings.decodeTokensPerSecond.toFixed(1)} tokens/s; ${describeSpeculation(speculation)}]`;
}

/** Lines the user types; the prompt is shown only to a person. */
async function* questions(context: CliContext): AsyncGenerator<string> {
  const terminal = Boolean(context.stdin.isTTY);
  const lines = createInterface({
    input: context.stdin,
    output: context.stderr,
    terminal,
    prompt: terminal ? '> ' : '',
  });
  try {
    if (terminal) lines.prompt();
    for await (const line of lines) {
      yield line;
      if (terminal) lines.prompt();
    }
  } finally {
    lines.close();
  }
}
