import { ConfigError } from '@qspec/core';
import { ChatTemplate } from './chat-template.js';
import { CutFinder } from './cut-finder.js';
import { createStages } from './decoder/stages.js';
import { EncodeWorker } from './encode-worker.js';
import { readTokenizerFolder } from './folder.js';
import { IncrementalDetokenizer } from './incremental-detokenizer.js';
import { JsBackend } from './js-backend.js';
import { forJsLibrary } from './js-definition.js';
import { NativeBackend } from './native-backend.js';
import { separateAstralCjk, toWellFormed } from './safe-text.js';
import {
  flattenComponents,
  parseTokenizerDefinition,
  type TokenizerDefinition,
  vocabEntries,
} from './tokenizer-definition.js';
import { readSettings, type TokenizerSettings } from './tokenizer-settings.js';
import type { ChatMessage, ChatRenderOptions, TokenizerFiles, TokenizerOptions } from './types.js';
import { MAX_UNCUT, MIN_WINDOW, nextWindowSize, WINDOW, windowIds, windowsOf } from './window-encoder.js';

export interface EncodeOptions {
  /** Put the tokens around the text that the tokenizer's post-processor asks for (BOS, …). Default true. */
  readonly addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out of the text. Default true. */
  readonly skipSpecialTokens?: boolean;
}

/**
 * Text to ids and back, by one model's tokenizer.json. Ids equal those of Hugging Face's `tokenizers`. Immutable; safe to share.
 * Lone surrogates in a text count as U+FFFD.
 */
export class Tokenizer {
  /** Largest id + 1, added tokens included. */
  readonly vocabSize: number;
  /** Ids of special added tokens, ascending. */
  readonly specialTokenIds: readonly number[];
  private readonly tokens: (string | undefined)[] = [];
  private readonly ids = new Map<string, number>();
  private readonly special: ReadonlySet<number>;
  private readonly settings: TokenizerSettings;
  private readonly template: ChatTemplate | undefined;
  private readonly cuts: CutFinder;
  private readonly isBert: boolean;
  private readonly around: { prefix: number[]; suffix: number[] };

  private constructor(
    private readonly definition: TokenizerDefinition,
    private readonly files: TokenizerFiles,
    private readonly source: string,
    private readonly js: JsBackend,
    private readonly native: NativeBackend | undefined,
  ) {
    this.indexVocabulary();
    this.vocabSize = this.tokens.length;
    this.specialTokenIds = definition.added_tokens
      .filter(({ special }) => special)
      .map(({ id }) => id)
      .sort((a, b) => a - b);
    this.special = new Set(this.specialTokenIds);
    this.settings = readSettings(files, source, (token) => this.ids.get(token));
    const { chatTemplate, namedTokens } = this.settings;
    this.template =
      chatTemplate === undefined
        ? undefined
        : new ChatTemplate(chatTemplate, namedTokens, `the chat template of ${source || 'this tokenizer'}`);
    this.cuts = new CutFinder(definition, (token) => this.ids.has(token), js);
    this.around = js.templateIds();
    this.isBert = flattenComponents(definition.normalizer).some(
      ({ type, handle_chinese_chars: separates }) => type === 'BertNormalizer' && separates !== false,
    );
    createStages(definition.decoder, this.fileName);
  }

  /**
   * Reads tokenizer.json and, where present, tokenizer_config.json, generation_config.json, chat_template.jinja from `folder`.
   * @throws CheckpointError naming a file that is missing or malformed; UnsupportedFormatError naming an unknown tokeniser type.
   */
  static async fromFolder(folder: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
    return Tokenizer.fromFiles(await readTokenizerFolder(folder), options);
  }

  /** From the files' contents, JSON text or parsed. Throws like {@link Tokenizer.fromFolder}. */
  static async fromFiles(files: TokenizerFiles, options: TokenizerOptions = {}): Promise<Tokenizer> {
    const choice = options.backend ?? 'js';
    if (!['auto', 'js', 'native'].includes(choice)) {
      throw new ConfigError(`Expected \`backend\` to be "auto", "js" or "native" but received "${choice}".`, {
        option: 'backend',
        received: choice,
      });
    }
    const source = files.source === undefined ? '' : `${files.source}/`;
    const definition = parseTokenizerDefinition(files.tokenizerJson, `${source}tokenizer.json`);
    const js = new JsBackend(forJsLibrary(definition), `${source}tokenizer.json`);
    const native = await NativeBackend.tryLoad(files.tokenizerJson, choice);
    return new Tokenizer(definition, files, source, js, native);
  }

  /**
   * Never blocks the event loop for long: a long text is worked off in windows cut where tokenisation provably continues
   * the same, on native threads, or, where neither is possible, in a worker thread.
   */
  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    const checked = this.prepare(text);
    if (checked.length <= WINDOW) return this.assemble([this.js.encode(checked)], options);
    if (this.native) return this.assemble([await this.native.encode(checked)], options);
    const parts: ArrayLike<number>[] = [];
    const worker = new EncodeWorker(this.files.tokenizerJson, forJsLibrary(this.definition).pre_tokenizer);
    try {
      let size = MIN_WINDOW;
      let startMs = performance.now();
      for (const window of windowsOf(checked, this.cuts, () => size)) {
        size = nextWindowSize(size, performance.now() - startMs);
        await nextTurn();
        startMs = performance.now();
        if (window === undefined) continue;
        const joined = window.context + window.text;
        const ids = window.text.length > MAX_UNCUT ? await worker.encode(joined) : this.js.encode(joined);
        const own = windowIds(ids, this.js.encode(window.context));
        if (own === undefined) return this.assemble([await worker.encode(checked)], options);
        parts.push(own);
      }
    } finally {
      await worker.close();
    }
    return this.assemble(parts, options);
  }

  /** The same ids at once, on the calling thread: for short texts. */
  encodeSync(text: string, options: EncodeOptions = {}): Int32Array {
    const checked = this.prepare(text);
    if (checked.length <= WINDOW) return this.assemble([this.js.encode(checked)], options);
    const parts: ArrayLike<number>[] = [];
    for (const window of windowsOf(checked, this.cuts)) {
      if (window === undefined) continue;
      const own = windowIds(this.js.encode(window.context + window.text), this.js.encode(window.context));
      if (own === undefined) return this.assemble([this.js.encode(checked)], options);
      parts.push(own);
    }
    return this.assemble(parts, options);
  }

  /** Ids that are not in the vocabulary leave no text. Malformed UTF-8 becomes U+FFFD. */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const detokenizer = this.createDetokenizer(options);
    const pieces: string[] = [];
    for (const id of ids) pieces.push(detokenizer.push(id));
    pieces.push(detokenizer.flush());
    return pieces.join('');
  }

  /** Text of a growing sequence; see {@link IncrementalDetokenizer}. One for each sequence. */
  createDetokenizer(options: DecodeOptions = {}): IncrementalDetokenizer {
    const skips = options.skipSpecialTokens ?? true;
    return new IncrementalDetokenizer(createStages(this.definition.decoder, this.fileName), (id) =>
      skips && this.special.has(id) ? undefined : this.tokens[id],
    );
  }

  tokenToId(token: string): number | undefined {
    return this.ids.get(token);
  }

  /** The token as the vocabulary writes it (`Ġthe`, `▁the`). */
  idToToken(id: number): string | undefined {
    return this.tokens[id];
  }

  get bosTokenId(): number | undefined {
    return this.settings.bosTokenId;
  }

  /** Ids that end a generation: tokenizer_config's `eos_token` and those of generation_config. May be empty. */
  get eosTokenIds(): readonly number[] {
    return this.settings.eosTokenIds;
  }

  get hasChatTemplate(): boolean {
    return this.template !== undefined;
  }

  /** @throws ConfigError when there is no chat template or it rejects the messages. */
  renderChat(messages: readonly ChatMessage[], options: ChatRenderOptions = {}): string {
    if (!this.template) {
      throw new ConfigError(
        'Expected the tokenizer to have a chat template but received none in tokenizer_config.json or chat_template.jinja. Give `chatTemplate`, or encode plain text.',
        { option: 'chatTemplate' },
      );
    }
    return this.template.render(messages, options);
  }

  /** Ids of the rendered chat. The template writes the special tokens itself, so none are added. */
  encodeChat(messages: readonly ChatMessage[], options: ChatRenderOptions = {}): Promise<Int32Array> {
    return this.encode(this.renderChat(messages, options), { addSpecialTokens: false });
  }

  private prepare(text: unknown): string {
    if (typeof text !== 'string') {
      throw new ConfigError(`Expected \`text\` to be a string but received ${typeof text}.`, { option: 'text' });
    }
    const wellFormed = toWellFormed(text);
    return this.isBert ? separateAstralCjk(wellFormed) : wellFormed;
  }

  private get fileName(): string {
    return `${this.source}tokenizer.json`;
  }

  private indexVocabulary(): void {
    const added = this.definition.added_tokens.map(({ id, content }): [number, string] => [id, content]);
    for (const [id, token] of [...vocabEntries(this.definition.model), ...added]) {
      this.tokens[id] = token;
      this.ids.set(token, id);
    }
  }

  private assemble(parts: readonly ArrayLike<number>[], options: EncodeOptions): Int32Array {
    const { prefix, suffix } = (options.addSpecialTokens ?? true) ? this.around : { prefix: [], suffix: [] };
    const all = [prefix, ...parts, suffix];
    const ids = new Int32Array(all.reduce((sum, part) => sum + part.length, 0));
    let offset = 0;
    for (const part of all) {
      ids.set(part, offset);
      offset += part.length;
    }
    return ids;
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
