"""An adapter saved by peft, with the scaling that peft gives each module.

    python tools/golden/peft_adapter.py           # writes tests/golden/peft/lora/

Made with peft 0.21.2, transformers 5.23.0, torch 2.15.0.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

OUT = Path(__file__).resolve().parents[2] / "tests/golden/peft/lora"
torch.manual_seed(3)
base = AutoModelForCausalLM.from_config(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1))
model = get_peft_model(base, LoraConfig(
    r=4, lora_alpha=8, lora_dropout=0.1, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"],
    rank_pattern={r"layers\.1\.mlp\.down_proj": 6}, alpha_pattern={"v_proj": 3}, task_type="CAUSAL_LM"))
for name, p in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(p)
model.save_pretrained(OUT)
(OUT / "README.md").unlink()
scaling = {name.removeprefix("base_model.model."): m.scaling["default"] for name, m in model.named_modules() if isinstance(getattr(m, "scaling", None), dict)}
(OUT / "scaling.json").write_text(json.dumps(scaling, indent=2) + "\n")
print(scaling)
