import { Command, CommanderError } from 'commander';
import { registerBench } from './commands/bench.js';
import { registerChat } from './commands/chat.js';
import { registerDemo } from './commands/demo.js';
import { registerDoctor } from './commands/doctor.js';
import { registerEval } from './commands/eval.js';
import { registerGenerate } from './commands/generate.js';
import { registerInspect } from './commands/inspect.js';
import { registerQuantize } from './commands/quantize.js';
import { readConfig } from './config.js';
import { type CliContext, createContext, type Guard } from './context.js';
import { describeError, EXIT, errorAsJson, exitCodeOf } from './exit-codes.js';

function createProgram(context: CliContext): Command {
  const program = new Command('qspec')
    .description(
      'Quantised speculative inference: one copy of the weights, a fast draft mode, and exactly the target’s text.',
    )
    .version(__QSPEC_VERSION__)
    .option('--json', 'machine-readable result on stdout')
    .showHelpAfterError('(qspec <command> --help lists the options)')
    .exitOverride();
  const guard: Guard =
    (action) =>
    (...args) =>
      action(...args).catch((error: unknown) => report(context, program, error));
  for (const register of [
    registerQuantize,
    registerGenerate,
    registerChat,
    registerEval,
    registerBench,
    registerInspect,
    registerDoctor,
    registerDemo,
  ]) {
    register(program, context, guard);
  }
  return program;
}

function report(context: CliContext, program: Command, error: unknown): void {
  context.exitCode = exitCodeOf(error);
  context.note(describeError(error));
  if (program.opts()['json']) context.printJson(errorAsJson(error));
}

async function main(): Promise<void> {
  const config = readConfig(process.env, process.stdout, process.stderr);
  const context = createContext(config, { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr });
  process.on('SIGINT', () => {
    if (context.onInterrupt) return context.onInterrupt();
    if (context.interrupt.signal.aborted) process.exit(EXIT.interrupted); // a second Ctrl-C does not wait
    context.exitCode = EXIT.interrupted;
    context.interrupt.abort();
  });
  process.stdout.on('error', (error: NodeJS.ErrnoException) =>
    process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.failure),
  );
  try {
    await createProgram(context).parseAsync(process.argv);
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    context.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  }
  process.exitCode = context.exitCode;
}

await main();
