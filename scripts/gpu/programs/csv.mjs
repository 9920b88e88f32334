import { appendFileSync, existsSync, statSync } from 'node:fs';

/** Appends a row of `columns`; the first row of a file brings the header. */
export function appendRow(path, columns, row) {
  if (!existsSync(path) || statSync(path).size === 0) appendFileSync(path, `${columns.join(',')}\n`);
  appendFileSync(path, `${columns.map((column) => csvCell(row[column])).join(',')}\n`);
}

/** Missing values are empty; text with a comma or quote is quoted. */
export function csvCell(value) {
  const text = value === undefined ? '' : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
