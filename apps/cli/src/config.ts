/** The only place that reads the environment. */
export interface CliConfig {
  /** Colours and redrawn progress lines: a terminal that did not ask for plain text. */
  readonly isColorful: boolean;
  readonly isInteractive: boolean;
}

export function readConfig(
  env: NodeJS.ProcessEnv,
  stdout: { isTTY?: boolean },
  stderr: { isTTY?: boolean },
): CliConfig {
  const plain = (env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb';
  return {
    isColorful: Boolean(stdout.isTTY) && !plain,
    isInteractive: Boolean(stderr.isTTY) && env['TERM'] !== 'dumb',
  };
}
