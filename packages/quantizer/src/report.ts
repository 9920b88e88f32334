import type { Int4Format, Nested8Format } from '@qspec/core';
import { addErrorSums, type ErrorSums, emptyErrorSums } from './error-sums.js';

/**
 * What quantisation did to the weights of one matrix or of all. `hi` is the 4-bit plane alone, `full` everything there is (the same for W4).
 * Type aliases, not interfaces, so that a report can be stored as plain JSON.
 */
export type ErrorReport = {
  readonly numWeights: number;
  /** ‖W - Ŵ‖ / ‖W‖ (Frobenius); 0 for a matrix of zeros. A rotation does not change it. */
  readonly relativeError: PlaneErrors;
  /** Largest |w - ŵ|, in the basis the weights are stored in. */
  readonly maxAbsError: PlaneErrors;
  /** Share of weights more than half a step outside the reach of their group's 4-bit codes: what clip search gave up. */
  readonly clippedWeights: number;
  /** Share of groups with such a weight. */
  readonly clippedGroups: number;
};

export type PlaneErrors = { readonly hi: number; readonly full: number };

export type LayerReport = ErrorReport & {
  readonly name: string;
  /** [N, K] */
  readonly shape: readonly [number, number];
  readonly format: Int4Format['kind'] | Nested8Format['kind'];
  readonly groupSize: number;
  readonly hadamardBlock: number;
  /** 0 where nothing is nested. */
  readonly radix: number;
};

export type QuantizationReport = {
  /** One entry a quantised matrix, in the checkpoint's order. */
  readonly layers: readonly LayerReport[];
  /** Over all quantised matrices. */
  readonly total: ErrorReport;
  /** Weights that were left as they are. */
  readonly numKeptWeights: number;
};

export function errorReport(sums: ErrorSums): ErrorReport {
  const relative = (squared: number) => (sums.sumOfSquares > 0 ? Math.sqrt(squared / sums.sumOfSquares) : 0);
  const share = (part: number, whole: number) => (whole > 0 ? part / whole : 0);
  return {
    numWeights: sums.numWeights,
    relativeError: { hi: relative(sums.hiSquaredError), full: relative(sums.fullSquaredError) },
    maxAbsError: { hi: sums.hiMaxAbsError, full: sums.fullMaxAbsError },
    clippedWeights: share(sums.numClippedWeights, sums.numWeights),
    clippedGroups: share(sums.numClippedGroups, sums.numGroups),
  };
}

export function layerReport(
  name: string,
  shape: readonly [number, number],
  format: Int4Format | Nested8Format,
  sums: ErrorSums,
): LayerReport {
  return {
    name,
    shape,
    format: format.kind,
    groupSize: format.groupSize,
    hadamardBlock: format.hadamardBlock,
    radix: format.kind === 'nested8' ? format.radix : 0,
    ...errorReport(sums),
  };
}

/** Collects a report layer by layer. */
export class ReportBuilder {
  private readonly layers: LayerReport[] = [];
  private readonly total = emptyErrorSums();
  private numKeptWeights = 0;

  addLayer(
    name: string,
    shape: readonly [number, number],
    format: Int4Format | Nested8Format,
    sums: ErrorSums,
  ): LayerReport {
    const layer = layerReport(name, shape, format, sums);
    this.layers.push(layer);
    addErrorSums(this.total, sums);
    return layer;
  }

  addKept(numWeights: number): void {
    this.numKeptWeights += numWeights;
  }

  build(): QuantizationReport {
    return { layers: this.layers, total: errorReport(this.total), numKeptWeights: this.numKeptWeights };
  }
}
