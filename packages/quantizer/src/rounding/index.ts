import type { Rounding, RoundingName } from './rounding.js';
import { rtn } from './rtn.js';

/** Every rounding method that a recipe can name. A new method is a file in this folder and a line here. */
export const ROUNDINGS: Readonly<Record<RoundingName, Rounding>> = { rtn };
