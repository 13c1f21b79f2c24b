"""The versions that a golden file was made with."""

from importlib.metadata import version


def table(*packages):
    """{package: version} of the given packages, by default those of the model files."""
    return {name: version(name) for name in packages or ("torch", "transformers", "peft", "safetensors")}
