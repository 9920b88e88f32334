#!/usr/bin/env python3
"""Decode steps and prefills of Llama models in plain PyTorch, captured in a CUDA graph: the outside baseline of the native step times.

    python3 pytorch_baseline.py --shape llama-3-8b --batches 1,8,32,64 --contexts 1024,8192,32768 --out x.csv --commit <id> [--int4] [--compile]

Random bfloat16 weights of the real shapes, a static cache full of random numbers, greedy argmax inside the graph. Choices that can only help the
baseline: the cache is exactly as long as the context, so attention needs no mask; of PyTorch's attention kernels the fastest is measured and taken;
residual sums ride in the products. Without CUDA: one sentence, exit code 77. Method and columns: benchmarks/README.md.
"""

import argparse
import csv
import gc
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    print(f"skipped: Expected PyTorch 2.5 or newer but received: {error}.")
    sys.exit(77)

DEVICE = "cuda"
EPS = 1e-5
GROUP = 128  # int4 weights along K that share a scale
RESERVE = 2 << 30  # bytes left to workspaces, activations and the graph
PREFILL_TOKENS = (64, 128, 256, 512, 2048, 8192)  # of one sequence
WARM_UP_SECONDS = 0.2  # of a case
COLUMNS = "device,commit,torch,cuda,shape,weights,batch,context,rows,what,attention,ms,limit_ms,share,read_tb_s,copy_tb_s".split(",")


@dataclass(frozen=True)
class Shape:
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    def kv_bytes(self, batch: int, context: int) -> int:
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim * batch * context

    def linears(self) -> list[tuple[int, int]]:
        """[N, K] of every product of a step, the head last."""
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = [(q_width + 2 * kv_width, self.hidden), (self.hidden, q_width)]
        layer += [(2 * self.intermediate, self.hidden), (self.hidden, self.intermediate)]
        return layer * self.layers + [(self.vocab, self.hidden)]


SHAPES = {
    "llama-3-8b": Shape(128256, 4096, 14336, 32, 32, 8, 128),
    "llama-2-7b": Shape(32000, 4096, 11008, 32, 32, 32, 128),
    "llama-3.2-1b": Shape(128256, 2048, 8192, 16, 32, 8, 64),
    "llama-3.2-3b": Shape(128256, 3072, 8192, 28, 24, 8, 128),
}


class DenseLinear:
    """y = x · wᵀ in bfloat16."""

    def __init__(self, n: int, k: int):
        self.weight = torch.empty(n, k, dtype=torch.bfloat16, device=DEVICE).normal_(0, k**-0.5)

    @staticmethod
    def bytes(n: int, k: int) -> int:
        return 2 * n * k

    def __call__(self, x):
        return F.linear(x, self.weight)

    def add_to(self, residual, x):
        residual.addmm_(x, self.weight.t())


class Int4Linear:
    """PyTorch's own weight-only int4 product: bfloat16 scale and zero for GROUP weights along K."""

    def __init__(self, n: int, k: int):
        codes = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device=DEVICE)
        self.packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
        self.scales = torch.zeros(k // GROUP, n, 2, dtype=torch.bfloat16, device=DEVICE)
        self.scales[..., 0].uniform_(0.5, 1.5).mul_(k**-0.5 / 4.6)  # 4.6: deviation of uniform codes

    @staticmethod
    def bytes(n: int, k: int) -> int:
        return n * k // 2 + 4 * n * (k // GROUP)

    def __call__(self, x):
        return torch.ops.aten._weight_int4pack_mm(x, self.packed, GROUP, self.scales)

    def add_to(self, residual, x):
        residual.add_(self(x))


LINEARS = {"bf16": DenseLinear, "int4": Int4Linear}


class Layer:
    def __init__(self, shape: Shape, linear):
        qkv, o, gate_up, down = shape.linears()[:4]
        self.qkv, self.o, self.gate_up, self.down = linear(*qkv), linear(*o), linear(*gate_up), linear(*down)
        self.attention_norm, self.mlp_norm = ones(shape.hidden), ones(shape.hidden)


class Decoder:
    """Weights of one model; the embedding is looked up, everything else is read by each step."""

    def __init__(self, shape: Shape, linear):
        self.shape = shape
        self.embedding = torch.empty(shape.vocab, shape.hidden, dtype=torch.bfloat16, device=DEVICE).normal_()
        self.layers = [Layer(shape, linear) for _ in range(shape.layers)]
        self.norm = ones(shape.hidden)
        self.head = linear(*shape.linears()[-1])


class Step:
    """One new token for each of `batch` sequences, at position context - 1, over a cache of `context` positions."""

    def __init__(self, model: Decoder, batch: int, context: int):
        shape = model.shape
        self.model, self.batch = model, batch
        self.tokens = torch.arange(batch, device=DEVICE) * 7919 % shape.vocab
        self.position = torch.tensor([context - 1], device=DEVICE)
        size = (shape.layers, 2, batch, shape.kv_heads, context, shape.head_dim)
        self.cache = torch.empty(size, dtype=torch.bfloat16, device=DEVICE).normal_()
        self.cos, self.sin = rotary_tables(context, shape.head_dim)
        self.attend = attend_grouped

    def run(self):
        model, shape = self.model, self.model.shape
        x = F.embedding(self.tokens, model.embedding)
        cos, sin = self.cos.index_select(0, self.position), self.sin.index_select(0, self.position)
        for index, layer in enumerate(model.layers):
            qkv = layer.qkv(rms_norm(x, layer.attention_norm)).view(self.batch, -1, shape.head_dim)
            layer.o.add_to(x, self.attention(qkv, self.cache[index], cos, sin))
            gate, up = layer.gate_up(rms_norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            layer.down.add_to(x, F.silu(gate) * up)
        logits = model.head(rms_norm(x, model.norm))
        self.tokens.copy_(logits.argmax(dim=-1))
        return logits

    def attention(self, qkv, cache, cos, sin):
        q, k, v = rotate(self.model.shape, qkv, cos, sin)
        keys, values = cache.unbind(0)  # [batch, kv_heads, context, head_dim]
        keys.index_copy_(2, self.position, k.unsqueeze(2))
        values.index_copy_(2, self.position, v.unsqueeze(2))
        return self.attend(q, keys, values).reshape(self.batch, -1)


class Prefill:
    """All tokens of one prompt in one pass, the cache filled, logits of the last."""

    def __init__(self, model: Decoder, num_tokens: int):
        shape = model.shape
        self.model, self.num_tokens = model, num_tokens
        self.tokens = torch.arange(num_tokens, device=DEVICE) * 31 % shape.vocab
        size = (shape.layers, 2, 1, shape.kv_heads, num_tokens, shape.head_dim)
        self.cache = torch.zeros(size, dtype=torch.bfloat16, device=DEVICE)
        self.cos, self.sin = (table.unsqueeze(1) for table in rotary_tables(num_tokens, shape.head_dim))

    def run(self):
        model, shape = self.model, self.model.shape
        x = F.embedding(self.tokens, model.embedding)
        for layer, cache in zip(model.layers, self.cache):
            qkv = layer.qkv(rms_norm(x, layer.attention_norm)).view(self.num_tokens, -1, shape.head_dim)
            layer.o.add_to(x, self.attention(qkv, cache))
            gate, up = layer.gate_up(rms_norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            layer.down.add_to(x, F.silu(gate) * up)
        return model.head(rms_norm(x[-1:], model.norm))

    def attention(self, qkv, cache):
        q, k, v = rotate(self.model.shape, qkv, self.cos, self.sin)
        keys, values = cache.unbind(0)  # [1, kv_heads, tokens, head_dim]
        keys.copy_(k.transpose(0, 1)), values.copy_(v.transpose(0, 1))
        return attend_causal(q.transpose(0, 1).unsqueeze(0), keys, values).squeeze(0).transpose(0, 1).reshape(self.num_tokens, -1)


def rotate(shape: Shape, qkv, cos, sin):
    """q, k, v of [tokens, heads, head_dim], q and k rotated."""
    rotated, v = qkv.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
    rotated = torch.addcmul(rotated * cos, rotated.roll(shape.head_dim // 2, -1), sin)
    return *rotated.split([shape.heads, shape.kv_heads], dim=1), v


def attend_causal(q, keys, values):
    return F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)


def attend_grouped(q, keys, values):
    """[batch, heads, head_dim], one query a head."""
    return F.scaled_dot_product_attention(q.unsqueeze(2), keys, values, enable_gqa=True).squeeze(2)


def attend_folded(q, keys, values):
    """The same numbers: heads that share keys become the queries of one head, which needs no mask and reads the keys once."""
    batch, heads, head_dim = q.shape
    folded = q.reshape(batch, keys.shape[1], heads // keys.shape[1], head_dim)
    return F.scaled_dot_product_attention(folded, keys, values).reshape(batch, heads, head_dim)


FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
ATTENTIONS = [(backend, attend) for backend in FUSED for attend in (attend_grouped, attend_folded)]
ATTENTIONS += [(SDPBackend.MATH, attend_folded)]  # grouped, it would copy the keys for every head
CAUSAL_ATTENTIONS = [(backend, attend_causal) for backend in (*FUSED, SDPBackend.MATH)]


def rms_norm(x, weight):
    return F.rms_norm(x, weight.shape, weight, EPS)


def ones(size: int):
    return torch.ones(size, dtype=torch.bfloat16, device=DEVICE)


def rotary_tables(context: int, head_dim: int):
    """cos and sin, [context, head_dim], the sine of the first half negated: x · cos + roll(x, head_dim / 2) · sin rotates the halves."""
    frequencies = 500000.0 ** (-torch.arange(0, head_dim, 2, device=DEVICE, dtype=torch.float32) / head_dim)
    angles = torch.arange(context, device=DEVICE, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).bfloat16(), torch.cat((-sin, sin), -1).bfloat16()


def median_ms(run, repeats: int) -> float:
    """Runs follow one another on the device without the host in between, after 3 that are not counted."""
    for _ in range(3):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in zip(events, events[1:]))


def warm_up(run):
    """As bench_cuda_steps does: until memory and clocks are as they stay."""
    end = time.monotonic() + WARM_UP_SECONDS
    while time.monotonic() < end:
        run()
        torch.cuda.synchronize()


def capture(run):
    """A CUDA graph of `run`, which has then run three times before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def measure_bandwidth(repeats: int) -> tuple[float, float]:
    """Bytes a second: the fastest of three ways to read up to 4 GiB, and a copy of the same (bytes read plus bytes written)."""
    num_bytes = min(4 << 30, torch.cuda.mem_get_info()[0] // 4) >> 20 << 20
    source = torch.empty(num_bytes // 4, dtype=torch.float32, device=DEVICE).normal_()
    matrix = torch.empty(num_bytes // 16384, 8192, dtype=torch.bfloat16, device=DEVICE).normal_()
    vector = torch.ones(1, 8192, dtype=torch.bfloat16, device=DEVICE)
    reads = {"sum": source.sum, "max": source.max, "product": lambda: F.linear(vector, matrix)}
    times = {name: median_ms(run, repeats) for name, run in reads.items()}
    name = min(times, key=times.get)
    read = num_bytes / times[name] * 1e3
    target = matrix.view(-1).view(torch.float32)
    copy = 2 * num_bytes / median_ms(lambda: target.copy_(source), repeats) * 1e3
    print(f"read {read / 1e12:.3f} TB/s ({name} of {num_bytes / 2**30:.1f} GiB), copy {copy / 1e12:.3f} TB/s")
    return read, copy


def choose_attention(q, cache, attentions, repeats: int):
    """The fastest attention kernel for this cache, over all layers in one graph: (name, backend, form)."""
    times = {}
    for backend, attend in attentions:
        name = f"{backend.name.lower().removesuffix('_attention')} {attend.__name__.removeprefix('attend_')}"
        try:
            with sdpa_kernel(backend):
                graph = capture(lambda: [attend(q, *layer.unbind(0)) for layer in cache])
            times[(name, backend, attend)] = median_ms(graph.replay, repeats)
        except RuntimeError:  # no such kernel for these sizes, or no memory for it
            release()
    if not times:
        raise RuntimeError("Expected an attention kernel for these sizes but PyTorch has none.")
    print("  attention of all layers, ms: " + ", ".join(f"{name} {ms:.3f}" for (name, *_), ms in times.items()))
    return min(times, key=times.get)


def random_queries(shape: Shape, rows: int):
    """[rows, heads, head_dim], as they lie in a product's result."""
    size = (rows, shape.heads + shape.kv_heads, shape.head_dim)
    return torch.empty(size, dtype=torch.bfloat16, device=DEVICE).normal_()[:, : shape.heads]


def time_decode(model: Decoder, batch: int, context: int, args) -> tuple[float, str]:
    step = Step(model, batch, context)
    name, backend, step.attend = choose_attention(random_queries(model.shape, batch), step.cache, ATTENTIONS, max(args.replays // 3, 1))
    return time_pass(step, backend, args), name


def time_prefill(model: Decoder, num_tokens: int, args) -> tuple[float, str]:
    prefill = Prefill(model, num_tokens)
    q = random_queries(model.shape, num_tokens).transpose(0, 1).unsqueeze(0)
    name, backend, _ = choose_attention(q, prefill.cache.normal_(), CAUSAL_ATTENTIONS, max(args.replays // 3, 1))
    return time_pass(prefill, backend, args), name


def time_pass(step, backend, args) -> float:
    run = torch.compile(step.run, dynamic=False) if args.compile else step.run
    with sdpa_kernel(backend):
        graph = capture(run)
        warm_up(graph.replay)
        ms = median_ms(graph.replay, args.replays)
        logits = run()
    if not bool(torch.isfinite(logits).all()):
        raise RuntimeError("Expected finite logits but some are not: the pass is wrong, its time means nothing.")
    return ms


def release():
    gc.collect()
    torch.cuda.empty_cache()


def bench_model(name: str, weights: str, args, bandwidth, writer) -> bool:
    """Every case that fits. False when one failed for another reason than memory."""
    shape, linear = SHAPES[name], LINEARS[weights]
    weight_bytes = sum(linear.bytes(n, k) for n, k in shape.linears())
    if not fits(f"{name} {weights}", weight_bytes + 2 * shape.vocab * shape.hidden):
        return True
    try:
        model = Decoder(shape, linear)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        print(f"{name} {weights}: skipped, {first_line(error)}")
        return True
    cases = [("decode", batch, context) for context in args.contexts for batch in args.batches] + [("prefill", 1, tokens) for tokens in PREFILL_TOKENS]
    is_good = True
    for what, batch, context in cases:
        case = f"{name} {weights} {what} batch {batch} context {context}"
        num_bytes = weight_bytes + shape.kv_bytes(batch, context)
        if not fits(case, shape.kv_bytes(batch, context)):
            continue
        try:
            ms, attention = time_decode(model, batch, context, args) if what == "decode" else time_prefill(model, context, args)
        except torch.cuda.OutOfMemoryError as error:
            print(f"{case}: skipped, {first_line(error)}")
            continue
        except RuntimeError as error:
            print(f"{case}: failed, {first_line(error)}")
            is_good = False
            continue
        finally:
            release()
        rows, limit = batch if what == "decode" else context, num_bytes / bandwidth[0] * 1e3
        rate = f"{ms:.3f} ms, {rows / ms * 1e3:.0f} tokens/s, byte limit {limit:.3f} ms, {100 * limit / ms:.1f} %"
        print(f"{case}: {rate}, attention {attention}", flush=True)
        label = weights + (" compiled" if args.compile else "")
        row = [torch.cuda.get_device_name(), args.commit, torch.__version__, torch.version.cuda, name, label, batch, context, rows, what, attention]
        numbers = [f"{ms:.4f}", f"{limit:.4f}", f"{limit / ms:.4f}", *(f"{value / 1e12:.3f}" for value in bandwidth)]
        writer(row + numbers)
    return is_good


def fits(what: str, num_bytes: int) -> bool:
    free = torch.cuda.mem_get_info()[0]
    if num_bytes + RESERVE <= free:
        return True
    print(f"{what}: skipped, it needs {(num_bytes + RESERVE) / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free.")
    return False


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def open_writer(path: str | None):
    """A function that appends a row to the file at once; without a path it does nothing."""
    if not path:
        return lambda row: None
    is_new = not os.path.exists(path) or os.path.getsize(path) == 0

    def write(row):
        nonlocal is_new
        with open(path, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(COLUMNS)
            is_new = False
            writer.writerow(row)

    return write


def parse_arguments(argv=None):
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description="Decode steps and prefills of Llama models in plain PyTorch, in a CUDA graph.")
    parser.add_argument("--shape", default="llama-3-8b", choices=[*SHAPES, "all"])
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32, 64])
    parser.add_argument("--contexts", type=numbers, default=[1024, 8192, 32768])
    parser.add_argument("--replays", type=int, default=15, help="timed replays of the graph; their median is reported")
    parser.add_argument("--int4", action="store_true", help="PyTorch's own int4 weight-only product as well")
    parser.add_argument("--compile", action="store_true", help="torch.compile before the graph (needs Triton and a C compiler)")
    parser.add_argument("--out", help="CSV file to append to")
    parser.add_argument("--commit", default="unknown")
    return parser.parse_args(argv)


def main() -> int:
    args = parse_arguments()
    if not torch.cuda.is_available():
        print("skipped: Expected a CUDA device that this PyTorch can use but found none; install a driver and a CUDA build of PyTorch.")
        return 77
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    bandwidth = measure_bandwidth(args.replays)
    release()
    writer = open_writer(args.out)
    warnings.filterwarnings("ignore")  # PyTorch says at length why it lacks an attention kernel; we go on to the next
    is_good = True
    with torch.inference_mode():
        for name in SHAPES if args.shape == "all" else [args.shape]:
            for weights in ["bf16", "int4"] if args.int4 else ["bf16"]:
                is_good &= bench_model(name, weights, args, bandwidth, writer)
                release()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
