import { defineConfig } from 'vitest/config';

// Tests run on sources: the `@qspec/source` export condition resolves every workspace package to its src/index.ts,
// so nothing but the native addon has to be built before `vitest run`.
export default defineConfig({
  resolve: { conditions: ['@qspec/source', 'node', 'import', 'default'] },
  ssr: { resolve: { conditions: ['@qspec/source', 'node', 'import', 'default'] } },
  test: {
    include: [
      'packages/*/{src,testing}/**/*.{test,prop.test}.ts',
      'apps/*/{src,testing}/**/*.{test,prop.test}.ts',
      'examples/**/*.test.ts',
      'scripts/**/*.test.ts',
    ],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 2,
  },
});
