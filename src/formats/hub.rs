//! Models by Hugging Face Hub id.
