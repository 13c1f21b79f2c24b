//! Ops: against the oracles, on ragged shapes and both float types; gradients; determinism.
