// Becomes <folder>/gpu.mjs, which runs what lies beside it:
//   node gpu.mjs test    --device cuda|cpu  --only native,engine  --problems 24  --filter <weights>
//   node gpu.mjs bench   --device cuda|cpu  --only ops,native,tally,pytorch  --out cuda-steps.csv  --commit <id>
//                        --shape llama-3-8b|llama-2-7b|llama-3.2-1b|llama-3.2-3b|all  --filter quick|<see README>  --runs 5  --int4  --compile
// Ends with 77 where there is no usable GPU, which the native program says in one sentence.
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runBenchmarks } from './bench.mjs';
import { runTests } from './test.mjs';

const folder = dirname(fileURLToPath(import.meta.url));
const { commit } = JSON.parse(readFileSync(join(folder, 'pack.json'), 'utf8'));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', default: 'cuda' },
    only: { type: 'string', default: 'native,engine,ops,tally,pytorch' },
    problems: { type: 'string' },
    filter: { type: 'string', default: '' },
    out: { type: 'string', default: 'cuda-steps.csv' },
    commit: { type: 'string', default: commit },
    shape: { type: 'string', default: 'llama-3-8b' },
    runs: { type: 'string', default: '5' },
    int4: { type: 'boolean', default: false },
    compile: { type: 'boolean', default: false },
  },
});
const commands = { test: runTests, bench: runBenchmarks };
const command = commands[positionals[0]];
if (!command) {
  process.stderr.write(`Expected test or bench but received ${positionals[0] ?? 'nothing'}.\n`);
  process.exit(2);
}
process.exitCode = await command(folder, { ...values, out: resolve(values.out), only: values.only.split(',') });
