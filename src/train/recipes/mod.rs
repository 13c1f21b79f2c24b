//! The recipes: explicit programs, read from top to bottom. None uses another; what two need is in [`crate::train`].

pub mod distill;
pub mod pretrain;
pub mod sft;
