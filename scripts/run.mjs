// The two commands of a fresh clone: `npm run demo` and `npm test` (and `npm run build`).
// Needs Node and npm alone to begin; installs, builds and runs. Nothing is done twice when nothing changed.
import { installDependencies } from './lib/install.mjs';
import { fail, heading, run } from './lib/process.mjs';
import { requireTools } from './lib/requirements.mjs';
import { runTests } from './lib/test.mjs';

const commands = {
  build: () => build(['build:native', 'build']),
  demo: () => {
    build(['build:native', 'build']);
    run('node', ['apps/cli/dist/main.js', 'demo', ...process.argv.slice(3)]);
  },
  test: () => {
    build(['build:native', 'build']);
    runTests(process.argv.slice(3));
  },
};

function build(tasks) {
  requireTools();
  installDependencies();
  heading('build');
  run('turbo', ['run', ...tasks, '--output-logs=new-only', '--log-prefix=task'], {
    remedy: 'The first error above says what failed to build.',
  });
}

const command = commands[process.argv[2]];
if (!command) fail(`Expected one of ${Object.keys(commands).join(', ')} but received ${process.argv[2] ?? 'nothing'}.`);
command();
