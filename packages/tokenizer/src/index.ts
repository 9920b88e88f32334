export { ChatTemplate } from './chat-template.js';
export { IncrementalDetokenizer } from './incremental-detokenizer.js';
export { type DecodeOptions, type EncodeOptions, Tokenizer } from './tokenizer.js';
export type { BackendChoice, ChatMessage, ChatRenderOptions, TokenizerFiles, TokenizerOptions } from './types.js';
