//! Tensors: values and where they live.
