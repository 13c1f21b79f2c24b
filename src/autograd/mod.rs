//! A minimal reverse-mode autograd. A [`Tape`] records what each op says of itself: its inputs, and a closure that
//! turns the gradient of its output into gradients of its inputs. The walk knows no op; an op without such a
//! closure cannot be recorded ([`Tape::record_inference_only`]).

mod checkpoint;
mod param;
mod tape;

pub use param::{Gradients, Param, ParamId};
pub use tape::{BackwardContext, ScopeGuard, Tape, Var};
