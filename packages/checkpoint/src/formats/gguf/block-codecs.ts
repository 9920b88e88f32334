import { halfTable } from '../../float-conversion.js';

/** A block of quantised elements and how it becomes float32, equal bit for bit to llama.cpp's single-precision arithmetic. */
export interface BlockCodec {
  readonly blockLength: number;
  readonly blockBytes: number;
  /** Whole blocks from `bytes` into `target` from `at`. */
  decode(bytes: Uint8Array, target: Float32Array, at: number): void;
}

const f16 = (bytes: Uint8Array, at: number): number => halfTable()[bytes[at]! | (bytes[at + 1]! << 8)]!;

/** f16 d, i8 q[32]: value = d · q. The product has at most 19 significant bits: exact. */
export const q8_0: BlockCodec = {
  blockLength: 32,
  blockBytes: 34,
  decode(bytes, target, at) {
    for (let from = 0, to = at; from < bytes.length; from += 34, to += 32) {
      const scale = f16(bytes, from);
      for (let i = 0; i < 32; i++) target[to + i] = scale * ((bytes[from + 2 + i]! << 24) >> 24);
    }
  },
};

/** f16 d, u4 q[32]: byte i holds element i in its low and element i + 16 in its high nibble; value = d · (q - 8). Exact. */
export const q4_0: BlockCodec = {
  blockLength: 32,
  blockBytes: 18,
  decode(bytes, target, at) {
    for (let from = 0, to = at; from < bytes.length; from += 18, to += 32) {
      const scale = f16(bytes, from);
      for (let i = 0; i < 16; i++) {
        const byte = bytes[from + 2 + i]!;
        target[to + i] = scale * ((byte & 15) - 8);
        target[to + 16 + i] = scale * ((byte >> 4) - 8);
      }
    }
  },
};

/** f16 d, f16 m, u4 q[32] as in q4_0; value = d · q + m. Exact in double, so rounded once to single, as in C. */
export const q4_1: BlockCodec = {
  blockLength: 32,
  blockBytes: 20,
  decode(bytes, target, at) {
    for (let from = 0, to = at; from < bytes.length; from += 20, to += 32) {
      const scale = f16(bytes, from);
      const min = f16(bytes, from + 2);
      for (let i = 0; i < 16; i++) {
        const byte = bytes[from + 4 + i]!;
        target[to + i] = scale * (byte & 15) + min;
        target[to + 16 + i] = scale * (byte >> 4) + min;
      }
    }
  },
};

/**
 * 256 elements: u4 low[128], u2 high[64], i8 scale[16], f16 d; value = d · scale · (low | high << 4, less 32). Exact (24 bits).
 * llama.cpp's Q4_0 and Q4_1 files hold the head in it. Each half (128 elements) uses 64 bytes of `low`, 32 of `high`, 8 scales;
 * its quarter j (32 elements) has its low nibbles in low[32 · (j & 1) …], low or high half of the byte by j >> 1, and bits 2j of `high`.
 */
export const q6_K: BlockCodec = {
  blockLength: 256,
  blockBytes: 210,
  decode(bytes, target, at) {
    for (let from = 0, to = at; from < bytes.length; from += 210, to += 256) {
      const scale = f16(bytes, from + 208);
      for (let half = 0; half < 2; half++) {
        for (let i = 0; i < 128; i++) {
          const quarter = i >> 5;
          const lane = i & 31;
          const low = (bytes[from + half * 64 + (quarter & 1) * 32 + lane]! >> ((quarter >> 1) * 4)) & 15;
          const high = (bytes[from + 128 + half * 32 + lane]! >> (quarter * 2)) & 3;
          const subScale = (bytes[from + 192 + half * 8 + (i >> 4)]! << 24) >> 24;
          target[to + half * 128 + i] = scale * subScale * ((low | (high << 4)) - 32);
        }
      }
    }
  },
};
