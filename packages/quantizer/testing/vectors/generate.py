"""Golden vectors for @qspec/quantizer, from NumPy in float64: dense Hadamard product, brute-force scale search, no shared code.

python generate.py    (NumPy only; writes golden.json beside this file)
"""
import base64
import itertools
import json
import pathlib

import numpy as np

ROWS, COLUMNS = 6, 256


def bf16_bits(x):
    """float32 -> bfloat16 bits, nearest even."""
    u = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_value(bits):
    return (np.asarray(bits, np.uint32) << 16).view(np.float32).astype(np.float64)


def codes_of(groups, scales):
    return np.clip(np.rint(groups * (1 / scales)[:, None]), -8, 7)


def amax_scales(groups):
    bits = bf16_bits((np.abs(groups).max(1) / 7).astype(np.float32))
    return np.where(bits < 0x0080, 0x3F80, bits).astype(np.uint16)


def best_scales(groups, max_clip):
    """
    Every bfloat16 between amax / 16 and amax / 6, the one with the least squared error; amax / 7 where nothing is better.
    No scale so small that a weight lies more than max_clip steps outside [-8, 7] (up to the rounding of that limit to bfloat16).
    """
    chosen = []
    for group, start in zip(groups, amax_scales(groups)):
        amax = np.abs(group).max()
        if bf16_bits(np.float32(amax / 7)) < 0x0080:
            chosen.append(start)
            continue
        least = max(amax / 16, group.max() / (7 + max_clip), -group.min() / (8 + max_clip))
        low, high = (max(0x0080, int(bf16_bits(np.float32(x)))) for x in (least, amax / 6))
        candidates = np.concatenate([[start], np.arange(low, high + 1)]).astype(np.uint16)
        scales = bf16_value(candidates)
        errors = ((group[None] - scales[:, None] * np.clip(np.rint(group[None] / scales[:, None]), -8, 7)) ** 2).sum(1)
        chosen.append(candidates[errors.argmin()])
    return np.array(chosen, np.uint16)


def pack(codes):
    nibbles = (codes.astype(np.int64) + 8).reshape(-1, 8)
    words = (nibbles << (4 * np.arange(8))).sum(1)
    return words.astype(np.uint32).view(np.int32)


def hadamard(block):
    h = np.ones((1, 1))
    while len(h) < block:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(block)


def text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def weights():
    rng = np.random.default_rng(20261123)
    w = rng.standard_normal((ROWS, COLUMNS)) * 0.02
    w[1] = rng.laplace(size=COLUMNS) * 0.05
    w[2, 7], w[2, 200] = 1.5, -2.25                  # outliers of both signs
    w[3, 64:192] = 0                                 # whole groups of zeros, and half ones
    w[4, :128] *= 1e-38                              # some groups underflow, some only just do not
    w[5] = np.round(w[5] * 256) / 256                # ties, few distinct values
    return w.astype(np.float32)


def rotate(w, block):
    return (w.astype(np.float64).reshape(-1, block) @ hadamard(block)).reshape(w.shape).astype(np.float32) if block else w


def case(w, group_size, block, search, radix):
    """radix 0: W4 alone."""
    groups = rotate(w, block).astype(np.float64).reshape(-1, group_size)
    bits = amax_scales(groups) if search == "none" else best_scales(groups, 7.5 / radix if radix else np.inf)
    scales = bf16_value(bits)
    hi = codes_of(groups, scales)
    lo = np.clip(np.rint((groups * (1 / scales)[:, None] - hi) * radix), -8, 7)
    norm = np.sqrt((groups**2).sum())
    full = scales[:, None] / radix * (radix * hi + lo) if radix else scales[:, None] * hi
    return {
        "groupSize": group_size,
        "hadamardBlock": block,
        "clipSearch": search,
        "radix": radix,
        "scales": text(bits),
        "hi": text(pack(hi)),
        "lo": text(pack(lo)) if radix else "",
        "hiError": float(np.sqrt(((groups - scales[:, None] * hi) ** 2).sum()) / norm),
        "fullError": float(np.sqrt(((groups - full) ** 2).sum()) / norm),
        "groupErrors": [float(e) for e in ((groups - scales[:, None] * hi) ** 2).sum(1)],
    }


def main():
    w = weights()
    grid = itertools.product((32, 64, 128), (0, 64), ("none", "exhaustive"), (0, 8, 12, 15))
    cases = [case(w, *combination) for combination in grid]
    provenance = f"generate.py, NumPy {np.__version__}"
    inputs = {"shape": [ROWS, COLUMNS], "weights": text(w), "rotated64": text(rotate(w, 64))}
    golden = {"provenance": provenance, **inputs, "cases": cases}
    pathlib.Path(__file__).with_name("golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
