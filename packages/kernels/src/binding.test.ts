import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { DeviceError, KernelLoadError, QSpecError } from '@qspec/core';
import { afterAll, describe, expect, it } from 'vitest';
import { createBackend } from './backend.js';
import { addonCandidates, loadAddon, loadAddonFrom } from './binding.js';
import { createCpuBackend, createReferenceBackend } from './cpu-backend.js';
import { createCudaBackend } from './cuda-backend.js';
import { describeNative } from './describe.js';
import { cgroupCpuLimit, defaultNumThreads, physicalThreadsPerCore } from './physical-cores.js';

const folder = mkdtempSync(join(tmpdir(), 'qspec-binding-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('finding the addon', () => {
  it('says what was tried and how to build when there is none', () => {
    const broken = join(folder, 'qspec.node');
    writeFileSync(broken, 'not a library');
    const missing = join(folder, 'nowhere', 'qspec.node');
    const load = () => loadAddonFrom([missing, broken]);
    expect(load).toThrow(KernelLoadError);
    for (const words of [`${missing}: no such file`, `${broken}: `, 'npm run build:native', 'CMake']) {
      expect(load).toThrow(words);
    }
  });

  it('looks in the package, then beside the bundle that the code became part of', () => {
    const platform = `${process.platform}-${process.arch}`;
    expect(addonCandidates(join('/app', 'dist'))).toEqual([
      join('/app', 'build', 'Release', 'qspec.node'),
      join('/app', 'prebuilds', platform, 'qspec.node'),
      join('/app', 'dist', 'prebuilds', platform, 'qspec.node'),
    ]);
  });

  it('describes what is there', () => {
    const report = describeNative();
    expect(report).toMatchObject({ isLoaded: true, abiVersion: report.expectedAbiVersion, buildType: 'Release' });
    expect(report.defaultNumThreads).toBeGreaterThan(0);
  });

  it('is refused politely where options are wrong', async () => {
    await expect(createBackend({ device: 'tpu' as never })).rejects.toThrow(/`device`/);
    for (const numThreads of [0, -1, 1.5, Number.NaN, 1e9]) {
      expect(() => createCpuBackend({ numThreads })).toThrow(QSpecError);
    }
    expect(() => createCpuBackend({ isa: 'sse9' as never })).toThrow(/`isa`/);
    for (const ordinal of [-1, 0.5, Number.NaN, 1e6]) {
      await expect(createCudaBackend({ ordinal })).rejects.toThrow(/`ordinal`/);
    }
    expect(() => loadAddon().createBackend({ kind: 'tpu' } as never)).toThrow(/`kind` to be reference, cpu or cuda/);
  });
});

describe('devices', () => {
  const { cuda } = describeNative();

  it('describe the processor, with what it may still allocate of the system’s memory', () => {
    const backend = createReferenceBackend({ numThreads: 3 });
    const { description, freeBytes, ...device } = backend.device;
    expect(device).toEqual({ arch: 'scalar', numThreads: 3 });
    expect(description).toMatch(/ \(scalar, 3 threads\)$/);
    expect(freeBytes).toBeGreaterThan(0);
    expect(freeBytes).toBeLessThanOrEqual(totalmem());
    backend.dispose();
    expect(backend.device.freeBytes).toBe(0);
  });

  it('are chosen by `auto`, which says why', async () => {
    const { backend, selection } = await createBackend();
    expect(backend.name).toBe(cuda.isUsable ? 'cuda' : 'cpu');
    expect(selection).toMatch(
      cuda.isUsable ? /^cuda: / : /^cpu: (this build has no CUDA|no usable CUDA device) .*\(.+\)\.$/,
    );
    backend.dispose();
  });

  it('report CUDA as a whole: usable, or what is missing', () => {
    expect(cuda.isUsable).toBe(cuda.problem === undefined);
    if (cuda.isUsable)
      expect(cuda).toMatchObject({ isBuilt: true, computeCapability: expect.stringMatching(/^\d+\.\d$/) });
    if (!cuda.isBuilt) expect(cuda.problem).toMatch(/was|were|has no/);
  });

  it.skipIf(cuda.isUsable)('refuse CUDA where there is none, with the remedy', async () => {
    const asked = createBackend({ device: 'cuda' });
    await expect(asked).rejects.toThrow(DeviceError);
    await expect(asked).rejects.toThrow(
      cuda.isBuilt ? /^(Expected|CUDA call).*\.$/ : /none \(.*\): install the CUDA toolkit/,
    );
  });
});

describe('threads by default', () => {
  it('counts a core once, however many hyper-threads it has', () => {
    const siblings: Record<string, string> = { cpu0: '0,4', cpu1: '1,5', cpu4: '0,4', cpu5: '1,5' };
    const read = (path: string) => siblings[path.split('/')[5]!];
    expect(physicalThreadsPerCore(read, () => Object.keys(siblings))).toBe(2);
    expect(defaultNumThreads()).toBeGreaterThanOrEqual(1);
  });

  it('respects a quota of either cgroup version', () => {
    expect(cgroupCpuLimit((path) => (path.endsWith('cpu.max') ? '150000 100000\n' : undefined))).toBe(1.5);
    expect(cgroupCpuLimit((path) => (path.endsWith('cpu.max') ? 'max 100000\n' : undefined))).toBeUndefined();
    const v1: Record<string, string> = { 'cpu.cfs_quota_us': '200000', 'cpu.cfs_period_us': '100000' };
    expect(cgroupCpuLimit((path) => v1[path.split('/').at(-1)!])).toBe(2);
    expect(cgroupCpuLimit(() => '-1')).toBeUndefined();
  });
});

/** A forward pass of a one-matrix model through the raw addon: what a worker does with its own copy of the module. */
const WORKER = `
const { parentPort, workerData } = require('node:worker_threads');
const addon = require(workerData.path);
const [vocab, width] = [64, 512];
const run = async () => {
  const backend = addon.createBackend({ kind: 'reference', isa: 'generic', numThreads: 2 });
  const part = (name) => ({ name, kind: 'dense', dtype: 'f32', numRows: vocab, numColumns: width, groupSize: 0, radix: 1,
    hadamardBlock: 0, dense: new Uint8Array(new Float32Array(vocab * width).fill(0.5).buffer) });
  const { id: table } = await backend.createWeight([part('table')]);
  const program = { name: 'one', logits: 2,
    buffers: [{ kind: 'float', width }, { kind: 'float', width }, { kind: 'float', width: vocab }],
    ops: [{ op: 'embedding', table, output: 0 }, { op: 'gatherRows', input: 0, output: 1 },
      { op: 'linear', weight: table, plane: 'full', input: 1, output: 2, outputColumn: 0 }] };
  const kv = { format: 'f32', numLayers: 1, numPages: 64, pageSize: 16, numKvHeads: 1, headDim: 16 };
  const session = await backend.createSession({ target: program, kv, vocabSize: vocab, maxRows: 1024, maxLogitRows: 1024 });
  const rows = Int32Array.from({ length: workerData.rows }, (_, i) => i);
  const batch = { isDraft: false, pageOffsets: Int32Array.of(0, 64), pageIds: Int32Array.from({ length: 64 }, (_, i) => i),
    tokens: new Int32Array(rows.length), positions: rows, sequences: new Int32Array(rows.length), maxAncestors: 0, logitRows: rows };
  const pending = session.forward(batch);
  parentPort.postMessage('started');
  return (await pending).logits[0];
};
run().then((value) => parentPort.postMessage(value), (error) => parentPort.postMessage(error.message));
`;

describe('worker_threads', () => {
  const start = (rows: number) => new Worker(WORKER, { eval: true, workerData: { path: addonCandidates()[0], rows } });

  it('runs in several at once', async () => {
    const workers = [1, 3, 20].map(start);
    const values = workers.map(
      (worker) =>
        new Promise((resolve, reject) => {
          worker.on('message', (message) => message !== 'started' && resolve(message));
          worker.on('error', reject);
        }),
    );
    expect(await Promise.all(values)).toEqual([128, 128, 128]);
    await Promise.all(workers.map((worker) => worker.terminate()));
  });

  it('survives a worker that is terminated in the middle of a forward pass', async () => {
    for (let i = 0; i < 3; i++) {
      const worker = start(1000);
      await new Promise((resolve) => worker.once('message', resolve));
      await worker.terminate();
    }
    const backend = createCpuBackend({ numThreads: 1 });
    expect(backend.residentBytes).toBe(0);
    backend.dispose();
  });
});
