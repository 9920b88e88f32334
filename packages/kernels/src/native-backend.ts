import { freemem } from 'node:os';
import {
  type BackendName,
  ConfigError,
  type DeviceInfo,
  DisposedError,
  InvariantError,
  type KernelBackend,
  type SessionOptions,
  type VectorHandle,
  type WeightHandle,
  type WeightSource,
} from '@qspec/core';
import { HandleTable, lowerProgram, lowerWeightSource } from './lowering.js';
import { guard } from './native-errors.js';
import type { NativeBackendHandle } from './native-types.js';
import { NativeSession, type ProfilingSession } from './session.js';

/** A {@link KernelBackend} whose sessions can be profiled, and whose machine can be measured. */
export interface NativeKernelBackend extends KernelBackend {
  createSession(options: SessionOptions): Promise<ProfilingSession>;
  /** Bytes a second of large sequential reads by the whole device, measured now (well under a second). @throws OutOfMemoryError */
  measureReadBandwidth(): Promise<number>;
}

/** The TypeScript face of one native backend: checks, handles, lifetimes. */
export class NativeBackend implements NativeKernelBackend {
  readonly name: BackendName;
  readonly #handle: NativeBackendHandle;
  readonly #device: Omit<DeviceInfo, 'freeBytes'>;
  readonly #weights = new HandleTable<WeightHandle>('weight');
  readonly #vectors = new HandleTable<VectorHandle>('vector');
  #numSessions = 0;
  #isDisposed = false;

  constructor(name: BackendName, handle: NativeBackendHandle, device: Omit<DeviceInfo, 'freeBytes'>) {
    this.name = name;
    this.#handle = handle;
    this.#device = device;
  }

  get device(): DeviceInfo {
    const handle = this.#handle;
    return {
      ...this.#device,
      get freeBytes() {
        const freeBytes = guard(() => handle.freeBytes);
        return freeBytes < 0 ? freemem() : freeBytes;
      },
    };
  }

  get residentBytes(): number {
    return this.#isDisposed ? 0 : this.#handle.residentBytes;
  }

  async createWeight(parts: readonly WeightSource[]): Promise<WeightHandle> {
    this.#expectAlive();
    if (parts.length === 0) throw new ConfigError('Expected `parts` to have at least one weight but received none.');
    const lowered = parts.map(lowerWeightSource);
    const { id } = await guard(() => this.#handle.createWeight(lowered));
    return this.#weights.create(id);
  }

  createVector(values: Float32Array): VectorHandle {
    this.#expectAlive();
    return this.#vectors.create(guard(() => this.#handle.createVector(values)));
  }

  async createSession(options: SessionOptions): Promise<ProfilingSession> {
    this.#expectAlive();
    const lower = (program: SessionOptions['target']) => lowerProgram(program, this.#weights, this.#vectors);
    const spec = {
      target: lower(options.target),
      draft: options.draft && lower(options.draft),
      kv: options.kv,
      vocabSize: options.vocabSize,
      maxRows: options.maxRows,
      maxLogitRows: options.maxLogitRows,
    };
    this.#numSessions++;
    const release = () => void this.#numSessions--;
    try {
      return new NativeSession(await guard(() => this.#handle.createSession(spec)), release);
    } catch (error) {
      release();
      throw error;
    }
  }

  async measureReadBandwidth(): Promise<number> {
    this.#expectAlive();
    return guard(() => this.#handle.measureReadBandwidth());
  }

  dispose(): void {
    if (this.#isDisposed) return;
    if (this.#numSessions > 0) {
      throw new InvariantError(
        `Expected every session to be disposed before its backend but ${this.#numSessions} still live: dispose them first.`,
        { numSessions: this.#numSessions },
      );
    }
    this.#isDisposed = true;
    this.#handle.dispose();
  }

  #expectAlive(): void {
    if (this.#isDisposed) throw new DisposedError('Expected a live backend but it was disposed.');
  }
}
