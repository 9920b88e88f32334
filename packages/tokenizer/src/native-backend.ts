import { ConfigError } from '@qspec/core';
import type { BackendChoice } from './types.js';

/** The part of `@anush008/tokenizers` that is used; it works on libuv's threads. */
interface NativeTokenizer {
  encode(text: string, pair: null, options: { addSpecialTokens: boolean }): Promise<{ getIds(): number[] }>;
}

interface NativeModule {
  readonly Tokenizer: { fromString(json: string): NativeTokenizer };
}

const MODULE_NAME: string = '@anush008/tokenizers';

/** The native implementation, installed by the user (an optional peer dependency). Encodes off the JavaScript thread. */
export class NativeBackend {
  private constructor(private readonly tokenizer: NativeTokenizer) {}

  /**
   * @returns undefined when `choice` is `js`, or `auto` and the package is missing or can't load this file.
   * @throws ConfigError when `native` was asked for and cannot be had.
   */
  static async tryLoad(json: string | object, choice: BackendChoice): Promise<NativeBackend | undefined> {
    if (choice === 'js') return undefined;
    try {
      const loaded = (await import(MODULE_NAME)) as NativeModule & { default?: NativeModule };
      return new NativeBackend(
        (loaded.default ?? loaded).Tokenizer.fromString(typeof json === 'string' ? json : JSON.stringify(json)),
      );
    } catch (cause) {
      if (choice === 'auto') return undefined;
      throw new ConfigError(
        `Expected \`backend\` "native" to find ${MODULE_NAME} but received: ${(cause as Error).message}. Install it with npm install ${MODULE_NAME}@0.6.0, or use "js".`,
        { option: 'backend', received: choice },
        cause,
      );
    }
  }

  async encode(text: string): Promise<number[]> {
    if (text.length === 0) return [];
    return (await this.tokenizer.encode(text, null, { addSpecialTokens: false })).getIds();
  }
}
