/** A line a check on standard output, counted; at the end those that failed once more. */
export class Report {
  #passed = 0;
  #failures = [];

  check(name, isGood, remark = '') {
    const line = `${isGood ? 'ok    ' : 'FAILED'} ${name}${remark && `: ${remark}`}`;
    if (isGood) this.#passed++;
    else this.#failures.push(line);
    this.#print(line);
  }

  note(text) {
    this.#print(`note   ${text}`);
  }

  /** An error inside is one failed check, and the next ones go on. */
  async guard(name, action) {
    try {
      return await action();
    } catch (error) {
      this.check(name, false, error.stack);
      return undefined;
    }
  }

  /** @returns the exit code. */
  finish() {
    const numFailed = this.#failures.length;
    if (numFailed > 0) this.#print(['', ...this.#failures, ''].join('\n'));
    this.#print(`${this.#passed} passed, ${numFailed} failed`);
    return numFailed > 0 || this.#passed === 0 ? 1 : 0;
  }

  #print(line) {
    process.stdout.write(`${line}\n`);
  }
}
