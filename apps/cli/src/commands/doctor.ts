import { spawnSync } from 'node:child_process';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { describeNative } from '@qspec/kernels';
import type { Command } from 'commander';
import type { CliContext, Guard } from '../context.js';
import { cudaFindings } from '../doctor/cuda-findings.js';
import type { Finding } from '../doctor/finding.js';
import { EXIT } from '../exit-codes.js';
import { formatBytes } from '../render.js';

export function registerDoctor(program: Command, context: CliContext, guard: Guard): void {
  program
    .command('doctor')
    .description('look at this machine: what works, what is missing, what to do about it')
    .action(
      guard(async () => {
        const findings = examine();
        if (program.opts()['json']) context.printJson({ findings });
        else for (const finding of findings) context.print(line(finding, context));
        if (findings.some((finding) => finding.state === 'problem')) context.exitCode = EXIT.failure;
      }),
    );
}

function line({ what, state, detail }: Finding, { colors }: CliContext): string {
  const mark = { ok: colors.green('ok      '), optional: colors.yellow('missing '), problem: colors.red('problem ') }[
    state
  ];
  return `${mark} ${what}: ${detail}`;
}

function examine(): Finding[] {
  const native = describeNative();
  const memory = `${formatBytes(totalmem())} memory, ${availableParallelism()} of ${cpus().length} processors usable`;
  return [
    { what: 'node', state: 'ok', detail: `${process.version} (${process.platform} ${process.arch})` },
    { what: 'machine', state: 'ok', detail: `${cpus()[0]?.model.trim() ?? 'unknown processor'}, ${memory}` },
    native.isLoaded
      ? {
          what: 'native addon',
          state: 'ok',
          detail: `ABI ${native.abiVersion}, ${native.compiler}, ${native.buildType}`,
        }
      : { what: 'native addon', state: 'problem', detail: native.problem ?? 'not found' },
    ...(native.isLoaded
      ? [
          {
            what: 'cpu kernels',
            state: 'ok',
            detail: `${native.isa}, ${native.defaultNumThreads} threads by default`,
          } as const,
        ]
      : []),
    ...cudaFindings(native),
    tool('cmake', 'builds the native addon; Debian/Ubuntu: `apt install cmake`, macOS: `brew install cmake`'),
    tool('c++', 'builds the native addon; Debian/Ubuntu: `apt install g++`, macOS: `xcode-select --install`'),
    tool('nvcc', 'builds the CUDA kernels; comes with the CUDA toolkit (12.4 or newer)'),
    tool('nvidia-smi', 'comes with the NVIDIA driver, which a GPU needs: https://www.nvidia.com/drivers', [
      '--query-gpu=name,driver_version',
      '--format=csv,noheader',
    ]),
  ];
}

function tool(command: string, purpose: string, args: readonly string[] = ['--version']): Finding {
  const result = spawnSync(command, args, { encoding: 'utf8' });
  if (result.status !== 0) return { what: command, state: 'optional', detail: purpose };
  const lines = result.stdout.trim().split('\n');
  const version = lines.find((text) => /release|version/i.test(text)) ?? lines[0] ?? '';
  return { what: command, state: 'ok', detail: version.trim() };
}
