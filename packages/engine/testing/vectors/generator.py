"""Golden vectors of @qspec/engine: tiny random checkpoints with the logits that `transformers` gives them in float32.

    python generator.py [path of tally-10m]

Weights are bfloat16 on disk; the expected logits come from the same weights upcast to float32, eager attention, on the CPU.
Each folder is a Hugging Face checkpoint plus `expected.json`:
    prompts[i].tokens  token ids, one sequence from position 0
    prompts[i].rows    positions whose logits are kept
    prompts[i].logits  base64 of little-endian float32 [rows, vocab]
`rope.json` holds inverse frequencies and attention factors of each rope type.
"""

import base64
import json
import os
import sys

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=160, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0)


def cases():
    """name -> (config, legacy): legacy writes `rope_theta` and `rope_scaling` as published checkpoints do."""
    return {
        "llama-llama3-rope-tied": (LlamaConfig(**BASE, max_position_embeddings=256, tie_word_embeddings=True,
                                               rope_theta=10000.0, rope_scaling=dict(LLAMA3)), True),
        "llama-bias-linear-rope": (LlamaConfig(**{**BASE, "num_key_value_heads": 4}, max_position_embeddings=256, attention_bias=True,
                                               mlp_bias=True, tie_word_embeddings=False, rope_theta=500.0,
                                               rope_scaling=dict(rope_type="linear", factor=4.0)), False),
        "llama-yarn": (LlamaConfig(**{**BASE, "num_key_value_heads": 1}, max_position_embeddings=256, tie_word_embeddings=False,
                                   rope_theta=10000.0, rope_scaling=dict(YARN)), True),
        "mistral-sliding": (MistralConfig(**BASE, head_dim=16, max_position_embeddings=256, sliding_window=24,
                                          tie_word_embeddings=False, rope_theta=10000.0), True),
        "qwen2-bias-tied": (Qwen2Config(**BASE, max_position_embeddings=256, tie_word_embeddings=True, use_sliding_window=False,
                                        rope_theta=1000000.0), True),
        "qwen3-qk-norm": (Qwen3Config(**{**BASE, "num_key_value_heads": 1}, head_dim=32, max_position_embeddings=256,
                                      tie_word_embeddings=False, use_sliding_window=False, rope_theta=1000000.0), False),
    }


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            tensor.data = 1 + 0.2 * noise
        elif name.endswith("bias"):
            tensor.data = 0.2 * noise
        elif "embed" in name:
            tensor.data = 0.5 * noise
        else:
            tensor.data = 1.2 * noise / tensor.shape[1] ** 0.5
    model.tie_weights()


def to_legacy(folder):
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    parameters = config.pop("rope_parameters", None)
    if parameters:
        config["rope_theta"] = parameters.pop("rope_theta")
        if parameters.get("rope_type", "default") != "default":
            config["rope_scaling"] = parameters
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    json.dump(config, open(path, "w"), indent=2)


def expected(folder, prompts, rows_of):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    out = []
    for tokens in prompts:
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].float().numpy()
        rows = rows_of(len(tokens))
        data = np.ascontiguousarray(logits[rows], dtype="<f4").tobytes()
        out.append(dict(tokens=tokens, rows=rows, logits=base64.b64encode(data).decode()))
    return dict(provenance=dict(torch=torch.__version__, transformers=transformers.__version__, dtype="float32",
                                attention="eager", generator="generator.py"), prompts=out)


def tiny():
    for index, (name, (config, legacy)) in enumerate(cases().items()):
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float()
        randomise(model, seed=100 + index)
        model.to(torch.bfloat16).save_pretrained(folder)
        generation = os.path.join(folder, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        if legacy:
            to_legacy(folder)
        rng = np.random.default_rng(index)
        prompts = [rng.integers(3, 160, size=length).tolist() for length in (1, 17, 150)]
        result = expected(folder, prompts, lambda n: sorted({0, n // 3, n // 2, n - 2, n - 1} & set(range(n))))
        json.dump(result, open(os.path.join(folder, "expected.json"), "w"))
        print(name, os.path.getsize(os.path.join(folder, "model.safetensors")))


def rope():
    out = []
    for name, parameters, dim, theta, longest in [
        ("default", None, 64, 10000.0, 2048),
        ("linear", dict(rope_type="linear", factor=4.0), 32, 10000.0, 2048),
        ("llama3", dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                        original_max_position_embeddings=8192), 64, 500000.0, 131072),
        ("llama3-small", dict(LLAMA3), 16, 10000.0, 256),
        ("yarn", dict(YARN), 64, 10000.0, 256),
        ("yarn-qwen", dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768), 128, 1000000.0, 131072),
        ("yarn-attention-factor", {**YARN, "attention_factor": 1.5}, 64, 10000.0, 256),
        ("yarn-mscale", {**YARN, "mscale": 0.707, "mscale_all_dim": 1.2}, 64, 10000.0, 256),
        ("yarn-no-truncate", {**YARN, "truncate": False}, 64, 10000.0, 256),
    ]:
        config = LlamaConfig(**{**BASE, "hidden_size": dim * 4}, head_dim=dim, max_position_embeddings=longest, rope_theta=theta,
                             **({"rope_scaling": dict(parameters)} if parameters else {}))
        if parameters:
            frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
        else:
            frequencies, factor = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)), 1.0
        out.append(dict(name=name, headDim=dim, ropeTheta=theta, parameters=parameters,
                        inverseFrequencies=[float(x) for x in frequencies], attentionFactor=float(factor)))
    json.dump(dict(transformers=transformers.__version__, cases=out), open(os.path.join(HERE, "rope.json"), "w"), indent=1)


def tally(folder):
    rng = np.random.default_rng(7)
    prompts = [rng.integers(5, 1024, size=length).tolist() for length in (3, 40, 700)]
    result = expected(folder, prompts, lambda n: sorted({0, n // 2, n - 1}))
    json.dump(result, open(os.path.join(HERE, "tally-10m.json"), "w"))


if __name__ == "__main__":
    tiny()
    rope()
    if len(sys.argv) > 1:
        tally(sys.argv[1])
