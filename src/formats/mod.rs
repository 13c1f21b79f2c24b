//! File formats of the field, read and written: safetensors, GGUF, Hugging Face configs, PEFT adapters.
