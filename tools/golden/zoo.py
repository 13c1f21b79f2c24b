"""The small random-weight models that the golden files are made from.

One entry per architecture feature that an implementation can get wrong. Sizes are small and odd on purpose: head counts,
head sizes and feed-forward widths are not all multiples of eight.
"""

from dataclasses import dataclass

import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

COMMON = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
    "initializer_range": 0.2,
}


@dataclass
class Entry:
    """One model: its config, the seed of its weights, the lengths of its sequences and the LoRA settings."""

    name: str
    what: str
    config: object
    seed: int
    lengths: tuple
    lora_targets: list
    lora_seed: int
    rslora: bool = False
    # Keep one copy of config.json as transformers 4 wrote it (rope_theta, rope_scaling, torch_dtype).
    legacy_config: bool = False


def default_rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def entries():
    """The models, in the order in which they are written."""
    return [
        Entry(
            name="llama",
            what="Llama 2: multi-head attention, untied output, default RoPE",
            config=LlamaConfig(
                vocab_size=101, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=4, max_position_embeddings=64, rms_norm_eps=1e-5, rope_parameters=default_rope(10000.0),
                tie_word_embeddings=False, **COMMON,
            ),
            seed=1, lengths=(13, 7, 18), lora_targets=ALL_LINEAR, lora_seed=2001,
        ),
        Entry(
            name="llama3",
            what="Llama 3.2: llama3 RoPE scaling, grouped-query attention 2:1, tied output",
            config=LlamaConfig(
                vocab_size=128, hidden_size=48, intermediate_size=84, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
                # Small enough that the twelve-wide heads have frequencies in all three bands of the scaling.
                rope_parameters={
                    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
                },
                tie_word_embeddings=True, **COMMON,
            ),
            seed=2, lengths=(40, 9, 21), lora_targets=["q_proj", "v_proj"], lora_seed=2010, legacy_config=True,
        ),
        Entry(
            name="smollm2",
            what="SmolLM2: grouped-query attention 3:1, tied output",
            config=LlamaConfig(
                vocab_size=120, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6,
                num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_parameters=default_rope(100000.0),
                tie_word_embeddings=True, **COMMON,
            ),
            seed=3, lengths=(11, 16), lora_targets=ALL_LINEAR, lora_seed=2010, rslora=True,
        ),
        Entry(
            name="mistral",
            what="Mistral: a sliding window of 5, head_dim * heads != hidden_size, untied output",
            config=MistralConfig(
                vocab_size=96, hidden_size=40, intermediate_size=76, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=12, max_position_embeddings=64, rms_norm_eps=1e-6, sliding_window=5,
                rope_parameters=default_rope(10000.0), tie_word_embeddings=False, **COMMON,
            ),
            seed=4, lengths=(17, 5, 24), lora_targets=["q_proj", "k_proj", "v_proj", "o_proj"], lora_seed=2004,
        ),
        Entry(
            name="qwen2",
            what="Qwen2: biases on q, k and v, tied output",
            config=Qwen2Config(
                vocab_size=112, hidden_size=42, intermediate_size=81, num_hidden_layers=2, num_attention_heads=3,
                num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-6, use_sliding_window=False,
                rope_parameters=default_rope(1000000.0), tie_word_embeddings=True, **COMMON,
            ),
            seed=5, lengths=(12, 19, 6), lora_targets=ALL_LINEAR, lora_seed=2005,
        ),
        Entry(
            name="qwen3",
            what="Qwen3: RMSNorm on each head's q and k, head_dim != hidden_size / heads, untied output",
            config=Qwen3Config(
                vocab_size=105, hidden_size=36, intermediate_size=68, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=14, max_position_embeddings=64, rms_norm_eps=1e-6, use_sliding_window=False,
                rope_parameters=default_rope(1000000.0), tie_word_embeddings=False, **COMMON,
            ),
            seed=6, lengths=(15, 8, 20), lora_targets=ALL_LINEAR, lora_seed=2006,
        ),
        Entry(
            name="gpt2",
            what="GPT-2: learned positions, LayerNorm, gelu_new, Conv1D weights stored [in, out], tied output",
            config=GPT2Config(
                vocab_size=110, n_positions=48, n_embd=40, n_layer=2, n_head=4, n_inner=84, activation_function="gelu_new",
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-5, initializer_range=0.2,
                bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
            ),
            seed=7, lengths=(14, 6, 19), lora_targets=["c_attn", "c_proj", "c_fc"], lora_seed=2007,
        ),
    ]


def randomize(model, seed):
    """Draw every parameter again, in sorted order of its name, so that norms and biases are not ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in sorted(model.named_parameters()):
            if param.ndim > 1:
                param.normal_(0.0, 0.2, generator=generator)
            elif name.endswith("bias"):
                param.normal_(0.0, 0.1, generator=generator)
            else:
                param.uniform_(0.5, 1.5, generator=generator)


def sequences(entry):
    """Random ids of the entry's lengths, and labels in the Hugging Face convention.

    The label of position t is the token at position t (the model shifts them); -100 carries no loss. The first third of each
    sequence is masked as a prompt would be, and one later token is masked too.
    """
    generator = torch.Generator().manual_seed(1000 + entry.seed)
    ids, labels = [], []
    for length in entry.lengths:
        row = torch.randint(3, entry.config.vocab_size, (length,), generator=generator)
        label = row.clone()
        label[: length // 3] = -100
        label[(2 * length) // 3] = -100
        ids.append(row)
        labels.append(label)
    return ids, labels
