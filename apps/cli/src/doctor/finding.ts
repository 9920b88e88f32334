/** One thing looked at: fine, missing but optional, or broken. */
export interface Finding {
  readonly what: string;
  readonly state: 'ok' | 'optional' | 'problem';
  readonly detail: string;
}
