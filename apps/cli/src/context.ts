import { setMaxListeners } from 'node:events';
import type { CliConfig } from './config.js';
import { type Colors, createColors, ProgressBar } from './render.js';

/** Wraps a command's action: errors become one message and an exit code. */
export type Guard = <Args extends unknown[]>(
  action: (...args: Args) => Promise<void>,
) => (...args: Args) => Promise<void>;

/** What every command is handed: its streams, and a signal that fires on Ctrl-C. */
export interface CliContext {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
  readonly config: CliConfig;
  readonly colors: Colors;
  readonly interrupt: AbortController;
  /** Takes Ctrl-C instead of `interrupt` while set. */
  onInterrupt: (() => void) | undefined;
  /** Results: text for people, or one JSON document. */
  print(text: string): void;
  printJson(value: unknown): void;
  /** Progress and remarks. */
  note(text: string): void;
  /** A remark that is enough to make once, however many models a command loads. */
  noteOnce(text: string): void;
  progress(): ProgressBar;
  exitCode: number;
}

export function createContext(config: CliConfig, streams: Pick<CliContext, 'stdin' | 'stdout' | 'stderr'>): CliContext {
  const interrupt = new AbortController();
  setMaxListeners(0, interrupt.signal); // one listener a request, hundreds at once
  const said = new Set<string>();
  const note = (text: string) => void streams.stderr.write(`${text}\n`);
  return {
    ...streams,
    config,
    colors: createColors(config.isColorful),
    interrupt,
    onInterrupt: undefined,
    print: (text) => void streams.stdout.write(`${text}\n`),
    printJson: (value) => void streams.stdout.write(`${JSON.stringify(value, jsonReplacer, 2)}\n`),
    note,
    noteOnce: (text) => {
      if (!said.has(text)) note(text);
      said.add(text);
    },
    progress: () => new ProgressBar(streams.stderr, config.isInteractive),
    exitCode: 0,
  };
}

/** Typed arrays as plain arrays, non-finite numbers as null. */
function jsonReplacer(_key: string, value: unknown): unknown {
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number>);
  return value;
}
