import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import { InvariantError } from '@qspec/core';
import type { ComponentDefinition } from './tokenizer-definition.js';

/** Plain JavaScript for the thread: it can't load TypeScript, and bundlers can't move it away from its package. */
const SOURCE = `
const { parentPort, workerData } = require('node:worker_threads');
const { Tokenizer } = require(workerData.library);
const { source, preTokenizer } = workerData;
const parsed = typeof source === 'string' ? JSON.parse(source) : source;
const defaults = { normalizer: null, post_processor: null, decoder: null, added_tokens: [] };
const tokenizer = new Tokenizer({ ...defaults, ...parsed, pre_tokenizer: preTokenizer }, {});
parentPort.on('message', (text) => {
  parentPort.postMessage(Int32Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids));
});
`;

/** A thread that encodes texts that cannot be cut, so that the event loop goes on. One text at a time. */
export class EncodeWorker {
  private worker: Worker | undefined;

  /**
   * @param source tokenizer.json, text or parsed; read by the thread when it is first needed.
   * @param preTokenizer used in place of the file's.
   */
  constructor(
    private readonly source: string | object,
    private readonly preTokenizer: ComponentDefinition | null,
  ) {}

  encode(text: string): Promise<Int32Array> {
    this.worker ??= this.start();
    const { worker } = this;
    return new Promise((resolve, reject) => {
      const settle = (action: () => void) => {
        worker.removeAllListeners();
        action();
      };
      worker.once('message', (ids: Int32Array) => settle(() => resolve(ids)));
      worker.once('error', (error) => settle(() => reject(error)));
      worker.once('exit', () =>
        settle(() => reject(new InvariantError('The tokenizer thread ended before it answered.'))),
      );
      worker.postMessage(text);
    });
  }

  async close(): Promise<void> {
    await this.worker?.terminate();
    this.worker = undefined;
  }

  private start(): Worker {
    const library = createRequire(import.meta.url).resolve('@huggingface/tokenizers');
    return new Worker(SOURCE, {
      eval: true,
      workerData: { library, source: this.source, preTokenizer: this.preTokenizer },
    });
  }
}
