import { CheckpointError } from '@qspec/core';
import { describe, type UnknownFields } from '../json.js';

/** Typed, range-checked access to the fields of a `config.json`. null counts as absent, as Hugging Face writes it. */
export class ConfigFields {
  constructor(
    private readonly fields: UnknownFields,
    /** File, for messages. */
    readonly source: string,
    /** Prefix of field names in messages, e.g. `rope_scaling.`. */
    private readonly prefix = '',
  ) {}

  has(field: string): boolean {
    return this.fields[field] !== undefined && this.fields[field] !== null;
  }

  /** Written out as null, which for some fields differs from absent. */
  isNull(field: string): boolean {
    return this.fields[field] === null;
  }

  raw(field: string): unknown {
    return this.fields[field] ?? undefined;
  }

  integer(field: string, min: number, max: number, fallback?: number): number {
    const value = this.raw(field) ?? fallback;
    if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return value as number;
    throw this.invalid(field, `an integer from ${min} to ${max}`, value);
  }

  number(field: string, min: number, max: number, fallback?: number): number {
    const value = this.raw(field) ?? fallback;
    if (typeof value === 'number' && value >= min && value <= max) return value;
    throw this.invalid(field, `a number from ${min} to ${max}`, value);
  }

  optionalNumber(field: string, min: number, max: number): number | undefined {
    return this.has(field) ? this.number(field, min, max) : undefined;
  }

  boolean(field: string, fallback: boolean): boolean {
    const value = this.raw(field) ?? fallback;
    if (typeof value === 'boolean') return value;
    throw this.invalid(field, 'true or false', value);
  }

  optionalString(field: string): string | undefined {
    const value = this.raw(field);
    if (value === undefined || typeof value === 'string') return value;
    throw this.invalid(field, 'a string', value);
  }

  optionalObject(field: string): ConfigFields | undefined {
    const value = this.raw(field);
    if (value === undefined) return undefined;
    if (typeof value === 'object' && !Array.isArray(value)) {
      return new ConfigFields(value as UnknownFields, this.source, `${this.prefix}${field}.`);
    }
    throw this.invalid(field, 'an object', value);
  }

  invalid(field: string, expected: string, received: unknown): CheckpointError {
    const got = received === undefined ? 'nothing' : describe(received);
    return new CheckpointError(
      `Expected \`${this.prefix}${field}\` in \`${this.source}\` to be ${expected} but received ${got}. Restore the model's own config.json.`,
      { path: this.source, field: `${this.prefix}${field}`, received },
    );
  }
}
