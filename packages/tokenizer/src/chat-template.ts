import { Template } from '@huggingface/jinja';
import { CheckpointError, ConfigError } from '@qspec/core';
import type { ChatMessage, ChatRenderOptions } from './types.js';

const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];

/** Puts the caller's clock in place of the library's own. */
const CLOCK = '{% set strftime_now = qspec_strftime %}';

/** A Jinja chat template, compiled once. Renders what `transformers`' `apply_chat_template` renders. */
export class ChatTemplate {
  private readonly template: Template;

  /**
   * @param source Jinja text.
   * @param tokens variables such as `bos_token` that the template may write.
   * @param file named in errors.
   * @throws CheckpointError when the template cannot be parsed.
   */
  constructor(
    source: string,
    private readonly tokens: Readonly<Record<string, string>> = {},
    file = 'the chat template',
  ) {
    try {
      this.template = new Template(source);
      this.template.parsed.body.unshift(...new Template(CLOCK).parsed.body);
    } catch (cause) {
      throw new CheckpointError(
        `Expected ${file} to be a Jinja template but received: ${(cause as Error).message}`,
        { file },
        cause,
      );
    }
  }

  /** @throws ConfigError when the template rejects the messages (`raise_exception`) or cannot render them. */
  render(messages: readonly ChatMessage[], options: ChatRenderOptions = {}): string {
    if (!Array.isArray(messages) || messages.length === 0) {
      throw new ConfigError('Expected `messages` to be a non-empty array of { role, content } but received none.', {
        option: 'messages',
      });
    }
    const now = options.now ?? new Date();
    try {
      return this.template.render({
        ...this.tokens,
        qspec_strftime: (format: string) => strftime(now, format),
        tools: options.tools ?? null,
        documents: options.documents ?? null,
        add_generation_prompt: options.addGenerationPrompt ?? false,
        ...options.variables,
        messages,
      });
    } catch (cause) {
      throw new ConfigError(
        `Expected \`messages\` to suit the model's chat template but received: ${(cause as Error).message}`,
        { option: 'messages' },
        cause,
      );
    }
  }
}

/** Python's strftime in the C locale, local time, for the directives that templates use; others stay as they are. */
function strftime(now: Date, format: string): string {
  const pad = (value: number) => String(value).padStart(2, '0');
  const [month, day] = [MONTHS[now.getMonth()] as string, DAYS[now.getDay()] as string];
  const fields: Record<string, string> = {
    Y: String(now.getFullYear()),
    y: pad(now.getFullYear() % 100),
    m: pad(now.getMonth() + 1),
    d: pad(now.getDate()),
    H: pad(now.getHours()),
    I: pad(now.getHours() % 12 || 12),
    M: pad(now.getMinutes()),
    S: pad(now.getSeconds()),
    p: now.getHours() < 12 ? 'AM' : 'PM',
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    '%': '%',
  };
  return format.replace(/%([A-Za-z%])/g, (directive, letter: string) => fields[letter] ?? directive);
}
