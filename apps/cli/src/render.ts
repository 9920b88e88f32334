import picocolors from 'picocolors';

export type Colors = ReturnType<typeof picocolors.createColors>;

export function createColors(isColorful: boolean): Colors {
  return picocolors.createColors(isColorful);
}

/** Columns as wide as their longest cell; numbers (anything that starts with a digit or a sign) to the right. */
export function renderTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const isNumeric = header.map((_, column) => rows.every((row) => /^([-+]?\d|–|$)/.test(row[column] ?? '')));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (isNumeric[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd();
  const rule = widths.map((width) => '─'.repeat(width)).join('  ');
  return [line(header), rule, ...rows.map(line)].join('\n');
}

/** 1536 → `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 2 ** (10 * power);
  return `${power === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[power]}`;
}

export function formatPercent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : '–';
}

/** Shown on stderr: redrawn in place on a terminal, one line at each tenth otherwise. */
export class ProgressBar {
  private lastTenth = -1;
  private lastDrawMs = 0;

  constructor(
    private readonly stream: { write(text: string): unknown },
    private readonly isInteractive: boolean,
    private readonly nowMs: () => number = Date.now,
  ) {}

  update(done: number, total: number, label: string): void {
    const share = total > 0 ? Math.min(1, done / total) : 1;
    if (!this.isInteractive) {
      const tenth = Math.floor(share * 10);
      if (tenth === this.lastTenth) return;
      this.lastTenth = tenth;
      this.stream.write(`${Math.round(share * 100)} % ${label}\n`);
      return;
    }
    const now = this.nowMs();
    if (share < 1 && now - this.lastDrawMs < 50) return;
    this.lastDrawMs = now;
    const filled = Math.round(share * 24);
    this.stream.write(
      `\r\x1b[2K${'█'.repeat(filled)}${'░'.repeat(24 - filled)} ${Math.round(share * 100)} % ${label.slice(0, 60)}`,
    );
  }

  finish(): void {
    if (this.isInteractive) this.stream.write('\r\x1b[2K');
    this.lastTenth = -1;
  }
}
