/** Which implementation turns text into ids. All give the same ids. */
export type BackendChoice =
  /** Native when `@anush008/tokenizers` is installed, else plain JavaScript. */
  | 'auto'
  /** `@huggingface/tokenizers`, always there. */
  | 'js'
  /** `@anush008/tokenizers` for long texts; a ConfigError when it is not installed. */
  | 'native';

export interface TokenizerOptions {
  /** Default `js`. */
  readonly backend?: BackendChoice;
}

/** Contents of the tokenizer's files: JSON text, or what JSON.parse made of it. */
export interface TokenizerFiles {
  readonly tokenizerJson: string | object;
  readonly tokenizerConfig?: string | object;
  /** Jinja source; wins over `chat_template` of the config. */
  readonly chatTemplate?: string;
  /** `generation_config.json`: may name further end-of-sequence ids. */
  readonly generationConfig?: string | object;
  /** Where the files came from, for error messages. */
  readonly source?: string;
}

/** One turn. Templates may read further fields (`tool_calls`, `name`, …), so any are allowed. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

export interface ChatRenderOptions {
  /** End with the opening of an assistant turn. Default false. */
  readonly addGenerationPrompt?: boolean;
  /** JSON schemas of functions the model may call. */
  readonly tools?: readonly object[];
  readonly documents?: readonly object[];
  /** Further variables of the template, e.g. `{ enable_thinking: false }`. */
  readonly variables?: Readonly<Record<string, unknown>>;
  /** What `strftime_now` reports; default the current time. Pass it to make dated templates reproducible. */
  readonly now?: Date;
}
