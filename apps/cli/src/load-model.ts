import { LLM, type LlmOptions, Model } from '@qspec/engine';
import { createBackend, type NativeKernelBackend } from '@qspec/kernels';
import type { CliContext } from './context.js';
import { isGpuExpected } from './gpu-expectation.js';
import { backendOptions, llmOptions, type ModelOptions } from './options.js';

/** A model on a device that the CLI chose, and LLMs over it; closing it frees everything in order. */
export class LoadedModel implements AsyncDisposable {
  private readonly llms: LLM[] = [];

  constructor(
    readonly model: Model,
    readonly backend: NativeKernelBackend,
    /** Why this backend; empty when that was said already. */
    readonly selection: string,
  ) {}

  /** The same weights, run another way. */
  async run(options: LlmOptions): Promise<LLM> {
    const llm = await LLM.create(this.model, options);
    this.llms.push(llm);
    return llm;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const llm of this.llms) await llm.close();
    await this.model.close();
    this.backend.dispose();
  }
}

/** Loads with a progress bar on stderr; first says so when `auto` did not take the GPU that the user may be waiting for. */
export async function loadModel(
  path: string,
  options: Pick<ModelOptions, 'device' | 'threads'>,
  context: CliContext,
): Promise<LoadedModel> {
  const selected = await createBackend(backendOptions(options));
  const { backend, selection } = selected;
  const isNoted = isGpuExpected(options.device, selected);
  if (isNoted) context.noteOnce(context.colors.yellow(selection));
  const bar = context.progress();
  try {
    const model = await Model.load(path, {
      backend,
      signal: context.interrupt.signal,
      onProgress: ({ numLoaded, numTotal, name }) => bar.update(numLoaded, numTotal, `loading ${name}`),
    });
    bar.finish();
    return new LoadedModel(model, backend, isNoted ? '' : selection);
  } catch (error) {
    bar.finish();
    backend.dispose();
    throw error;
  }
}

/** Loads a model and the one LLM that the options ask for; says where it runs. */
export async function loadLlm(
  path: string,
  options: ModelOptions,
  context: CliContext,
): Promise<{ loaded: LoadedModel; llm: LLM }> {
  const checked = llmOptions(options); // a bad option fails before the weights are read
  const loaded = await loadModel(path, options, context);
  try {
    const llm = await loaded.run(checked);
    const { target, draft, gamma } = llm.stats();
    context.note(
      context.colors.dim(
        `${loaded.backend.device.description}; ${loaded.selection && `${loaded.selection} `}target ${target}, ${draft ? `draft ${draft}, γ ${gamma}` : 'no draft'}`,
      ),
    );
    return { loaded, llm };
  } catch (error) {
    await loaded[Symbol.asyncDispose]();
    throw error;
  }
}
