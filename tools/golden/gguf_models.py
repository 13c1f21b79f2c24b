"""Tiny GGUF files of every architecture and tokenizer that we read, with what they must read as.

    python tools/golden/gguf_models.py            # writes tests/golden/gguf/{ARCH.gguf,ARCH/,tokenizer-*.gguf,tokenizers.json}

Made with transformers 5.23.0, gguf 0.19.0, tokenizers 0.23.3, sentencepiece 0.2.3, safetensors 0.8.0.

ARCH.gguf holds a random model as llama.cpp's converter lays it out; ARCH/ holds the same as a Hugging Face folder
(config.json, model.safetensors), of what transformers itself reads out of the GGUF file: so the names, the row order of
llama's q and k, and GPT-2's transposition are transformers' word, not this script's.
tokenizer-NAME.gguf holds a small tokenizer; tokenizers.json the ids that the libraries which trained it give for some texts.
"""

import io
import json
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

OUT = Path(__file__).resolve().parents[2] / "tests/golden/gguf"
VOCAB, HIDDEN, LAYERS, HEADS, KV, HEAD_DIM, INTER = 48, 32, 2, 4, 2, 8, 64
COMMON = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INTER, num_hidden_layers=LAYERS,
              num_attention_heads=HEADS, num_key_value_heads=KV, max_position_embeddings=128, rms_norm_eps=1e-5,
              bos_token_id=1, eos_token_id=2, dtype="float32")
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
MODELS = {
    "llama": dict(COMMON, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=100000.0)),
    "qwen2": dict(COMMON, tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    "qwen3": dict(COMMON, head_dim=16, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    "gpt2": dict(vocab_size=VOCAB, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_inner=INTER, n_positions=64,
                 bos_token_id=1, eos_token_id=1, dtype="float32"),
}
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}


def gguf_name(name):
    base, suffix = name.rsplit(".", 1)
    if base in NAMES:
        return f"{NAMES[base]}.{suffix}"
    _, _, layer, part = base.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{suffix}"


def permute(w, heads):
    """The order in which llama.cpp wants the rows of q and k."""
    return w.reshape(heads, 2, len(w) // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_model(arch, settings):
    torch.manual_seed(7)
    config = AutoConfig.for_model(arch, **settings)
    model = AutoModelForCausalLM.from_config(config)
    for p in model.parameters():  # norms and biases too must be told apart
        torch.nn.init.normal_(p, std=0.5)
    path = OUT / f"{arch}.gguf"
    w = GGUFWriter(path, arch)
    w.add_name(f"tiny random {arch}")
    w.add_vocab_size(VOCAB)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(INTER)
    w.add_block_count(LAYERS)
    w.add_head_count(HEADS)
    w.add_bos_token_id(config.bos_token_id)
    w.add_eos_token_id(config.eos_token_id)
    if arch == "gpt2":
        w.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        w.add_head_count_kv(KV)
        w.add_layer_norm_rms_eps(config.rms_norm_eps)
        w.add_rope_freq_base(config.rope_parameters["rope_theta"])
        w.add_rope_dimension_count(getattr(config, "head_dim", HEAD_DIM))
    if arch == "qwen3":
        w.add_key_length(16)
        w.add_value_length(16)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for i, (name, p) in enumerate(model.state_dict().items()):
        if name in tied:
            continue
        x = p.numpy()
        if arch == "llama" and "q_proj" in name:
            x = permute(x, HEADS)
        if arch == "llama" and "k_proj" in name:
            x = permute(x, KV)
        if arch == "gpt2" and x.ndim == 2 and any(c in name for c in ("c_attn", "c_proj", "c_fc")):
            x = x.T
        x = np.ascontiguousarray(x)
        kind = [Q.Q8_0, Q.F16, Q.Q4_0, Q.F32, Q.BF16][i % 5] if x.ndim == 2 else Q.F32
        w.add_tensor(gguf_name(name), gguf.quantize(x, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    read = AutoModelForCausalLM.from_pretrained(OUT, gguf_file=path.name, config=config, dtype=torch.float32)
    assert type(read) is type(model)
    folder = OUT / arch
    folder.mkdir(exist_ok=True)
    read.config.quantization_config = None
    read.config.save_pretrained(folder)
    tensors = {k: v.contiguous() for k, v in read.state_dict().items() if k not in tied}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    worst = max((a - b).abs().max().item() for a, b in zip(model.state_dict().values(), read.state_dict().values()))
    print(arch, path.stat().st_size, "largest quantization error", worst)


CORPUS = ["The quick brown fox jumps over the lazy dog. It's 2024, and they've 1234567 reasons!\n\n    def f(x):\n\treturn x**2",
          "The capital of France is Paris; the capital of Japan is Tokyo. Naïve café, Ünïcödé, 日本語, 🎉",
          "She sells sea shells by the sea shore. HELLO World, iPhone McDonald's don't can't won't."] * 20
TEXTS = CORPUS[:3] + ["", " ", "  two  spaces ", "a\nb\r\n\r\nc", "x=12345.678e9", "<|im_start|>user\nhi<|im_end|>\n",
                      "I'LL you'll WE'RE", "e\u0301 vs \u00e9", "مرحبا 한국어 \U0001f9d1\u200d\U0001f680", "\u2581under"]
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# As in the tokenizer.json of openai-community/gpt2, HuggingFaceTB/SmolLM2-135M, meta-llama/Meta-Llama-3-8B, Qwen/Qwen2-7B.
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
BYTE_LEVEL = {
    "gpt-2": (GPT2, None, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]), None, False),
    "llama-bpe": (split(WORDS + r"\p{N}{1,3}" + TAIL), None, True),
    "qwen2": (split(WORDS + r"\p{N}" + TAIL), normalizers.NFC(), False),
}


def new_writer(path, model, pre, tokens, kinds):
    w = GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    return w


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_byte_level(pre, pre_tokenizer, normalizer, ignore_merges):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer, t.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(t.to_str())["model"]
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    if ignore_merges:  # a token that no merge makes: only taken whole
        vocab.append("Tokyo")
        model["vocab"]["Tokyo"] = len(vocab) - 1
        t.model = models.BPE(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], ignore_merges=True)
        t.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    w = new_writer(OUT / f"tokenizer-{pre}.gguf", "gpt2", pre, vocab, [3 if v in special else 1 for v in vocab])
    w.add_token_merges([" ".join(m) for m in model["merges"]])
    w.add_bos_token_id(0)
    w.add_eos_token_id(2)
    w.add_chat_template("{{ messages }}")
    finish(w)
    return [t.encode(x).ids for x in TEXTS]


def write_sentence_piece():
    blob = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for c in CORPUS for line in c.split("\n")]), model_writer=blob, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=blob.getvalue())
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    ids = range(sp.get_piece_size())
    w = new_writer(OUT / "tokenizer-sentencepiece.gguf", "llama", "default", [sp.id_to_piece(i) for i in ids], [kind(i) for i in ids])
    w.add_token_scores([sp.get_score(i) for i in ids])
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    finish(w)
    return [sp.encode(x, add_bos=True) for x in TEXTS]


OUT.mkdir(parents=True, exist_ok=True)
for arch, settings in MODELS.items():
    write_model(arch, settings)
ids = {pre: write_byte_level(pre, *rules) for pre, rules in BYTE_LEVEL.items()}
ids["sentencepiece"] = write_sentence_piece()
(OUT / "tokenizers.json").write_text(json.dumps({"texts": TEXTS, "ids": ids}) + "\n")
