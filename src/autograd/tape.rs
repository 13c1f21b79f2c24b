//! The tape and its backward walk.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::autograd::{Gradients, Param, ParamId};
use crate::device::philox::Philox;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A value in a computation: a tensor and, if gradients flow to it, its place on the tape.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<NodeRef>,
}

/// A node and the tape it is on, so that a value of another tape is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeRef {
    tape: u64,
    index: usize,
}

impl Var {
    /// A value that no gradient flows to.
    pub fn constant(value: Tensor) -> Var {
        Var { value, node: None }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The value, without the place on the tape.
    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// The lengths of the value's dimensions.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// The type of the value's elements.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// Whether a gradient will be asked of the op that uses this value. Ops compute no gradient where this is false.
    pub fn requires_grad(&self) -> bool {
        self.node.is_some()
    }
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var({:?}, requires_grad: {})", self.value, self.requires_grad())
    }
}

type BackwardFn = Box<dyn FnOnce(Tensor, &mut BackwardContext<'_>) -> Result<()>>;

enum Kind {
    Op(BackwardFn),
    Param(ParamId),
    /// A value whose gradient is asked for by [`Tape::backward_inputs`].
    Input,
}

struct Node {
    op: &'static str,
    place: Option<String>,
    inputs: Vec<Option<usize>>,
    kind: Kind,
}

/// What an op's backward is given: which gradients are wanted, and where they go.
pub struct BackwardContext<'a> {
    inputs: Vec<Option<usize>>,
    slots: &'a mut [Option<Tensor>],
    gradients: &'a mut Gradients,
}

impl BackwardContext<'_> {
    /// Whether the gradient of input `i` (in the order given to [`Tape::record`]) is wanted.
    pub fn needs(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    /// Adds `grad` to the gradient of input `i`; dropped if it is not wanted. A gradient has its value's shape; that of
    /// an activation has the activation's type, that of a parameter is f32 whatever the parameter's type.
    pub fn give(&mut self, i: usize, grad: Tensor) -> Result<()> {
        let Some(index) = self.inputs.get(i).copied().flatten() else { return Ok(()) };
        match &mut self.slots[index] {
            Some(sum) => sum.add_assign(&grad),
            empty => {
                *empty = Some(grad);
                Ok(())
            }
        }
    }

    /// What has been given for input `i` so far, by ops that used the value later, taken out: for an op whose kernel adds it to
    /// its own gradient, and so saves a pass over both. What it then gives has to contain it. `None` if nothing has arrived, or if
    /// that is not of type `dtype` (the input is a parameter): then it stays.
    pub fn take(&mut self, i: usize, dtype: DType) -> Option<Tensor> {
        let index = self.inputs.get(i).copied().flatten()?;
        self.slots[index].take_if(|sum| sum.dtype() == dtype)
    }

    /// Where gradients of parameters are summed (for ops that hold whole sub-computations, as checkpointing does).
    pub(super) fn gradients(&mut self) -> &mut Gradients {
        self.gradients
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub recording: bool,
    /// Dropout is on, with numbers from this generator; the stream's low 32 bits count the uses within the step.
    pub dropout: Option<Philox>,
    pub check_finite: bool,
}

/// A record of a computation, from which gradients are found by walking back.
pub struct Tape {
    id: u64,
    mode: Mode,
    dropout_uses: Cell<u64>,
    nodes: RefCell<Vec<Node>>,
    leaves: RefCell<HashMap<ParamId, usize>>,
    scopes: RefCell<Vec<String>>,
}

impl Tape {
    pub(super) fn with_mode(mode: Mode, dropout_uses: u64, scopes: Vec<String>) -> Tape {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Tape {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            mode,
            dropout_uses: Cell::new(dropout_uses),
            nodes: RefCell::default(),
            leaves: RefCell::default(),
            scopes: RefCell::new(scopes),
        }
    }

    /// A tape that records; dropout is off.
    pub fn recording() -> Tape {
        Tape::with_mode(Mode { recording: true, dropout: None, check_finite: false }, 0, Vec::new())
    }

    /// A tape for a training step: it records, and dropout is on. `micro_step` counts the forward passes of the run,
    /// so that each draws other numbers, and a resumed run the same ones.
    pub fn training(seed: u64, micro_step: u64) -> Tape {
        let dropout = Some(Philox { seed, stream: micro_step << 32 });
        Tape::with_mode(Mode { recording: true, dropout, check_finite: false }, 0, Vec::new())
    }

    /// A tape that records nothing: for inference and evaluation.
    pub fn inference() -> Tape {
        Tape::with_mode(Mode { recording: false, dropout: None, check_finite: false }, 0, Vec::new())
    }

    /// Checks every value and gradient; the first that is not finite becomes an [`Error::NonFinite`] that names the
    /// op and the [scope](Tape::scope). Slow: for finding out why a step failed.
    pub fn checking_finite(mut self) -> Tape {
        self.mode.check_finite = true;
        self
    }

    /// Whether ops on values that require gradients are recorded.
    pub fn is_recording(&self) -> bool {
        self.mode.recording
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn dropout_uses(&self) -> u64 {
        self.dropout_uses.get()
    }

    pub(super) fn set_dropout_uses(&self, uses: u64) {
        self.dropout_uses.set(uses);
    }

    pub(super) fn scope_names(&self) -> Vec<String> {
        self.scopes.borrow().clone()
    }

    /// A fresh stream of random numbers for one dropout; `None` where dropout is off (evaluation).
    pub fn next_dropout(&self) -> Option<Philox> {
        let base = self.mode.dropout?;
        let uses = self.dropout_uses.get();
        self.dropout_uses.set(uses + 1);
        Some(Philox { stream: base.stream + uses, ..base })
    }

    /// Names the module that the following ops belong to, until the guard is dropped. Only error messages use it.
    pub fn scope(&self, name: impl Into<String>) -> ScopeGuard<'_> {
        self.scopes.borrow_mut().push(name.into());
        ScopeGuard(self)
    }

    fn place(&self) -> Option<String> {
        let scopes = self.scopes.borrow();
        (!scopes.is_empty()).then(|| scopes.join("."))
    }

    fn push(&self, node: Node) -> NodeRef {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(node);
        NodeRef { tape: self.id, index: nodes.len() - 1 }
    }

    /// A parameter's value; gradients flow to it if it is trainable and the tape records.
    pub fn param(&self, param: &Param) -> Var {
        let value = param.value();
        if !self.mode.recording || !param.is_trainable() {
            return Var::constant(value);
        }
        let known = self.leaves.borrow().get(&param.id()).copied();
        let index = known.unwrap_or_else(|| {
            let place = Some(param.name().to_string());
            let leaf = Node { op: "parameter", place, inputs: Vec::new(), kind: Kind::Param(param.id()) };
            let index = self.push(leaf).index;
            self.leaves.borrow_mut().insert(param.id(), index);
            index
        });
        Var { value, node: Some(NodeRef { tape: self.id, index }) }
    }

    /// A value whose gradient [`Tape::backward_inputs`] returns.
    pub fn input(&self, value: Tensor) -> Var {
        if !self.mode.recording {
            return Var::constant(value);
        }
        let node = Node { op: "input", place: None, inputs: Vec::new(), kind: Kind::Input };
        Var { value, node: Some(self.push(node)) }
    }

    fn inputs_of(&self, op: &'static str, inputs: &[&Var]) -> Result<Vec<Option<usize>>> {
        let index = |v: &&Var| match v.node {
            Some(node) if node.tape != self.id => Err(Error::Model {
                what: op.to_string(),
                detail: "an operand is on another tape".to_string(),
            }),
            node => Ok(node.map(|n| n.index)),
        };
        inputs.iter().map(index).collect()
    }

    fn check_output(&self, op: &'static str, output: &Tensor) -> Result<()> {
        if self.mode.check_finite && output.first_non_finite()?.is_some() {
            return Err(Error::NonFinite { what: format!("output of op '{op}'"), place: self.place() });
        }
        Ok(())
    }

    /// Records an op: `output` was computed from `inputs`, and `backward` gives gradients of the inputs for a gradient of
    /// the output. What `backward` captures is the saved state; it is freed at once if no input requires a gradient.
    pub fn record(
        &self,
        op: &'static str,
        inputs: &[&Var],
        output: Tensor,
        backward: impl FnOnce(Tensor, &mut BackwardContext<'_>) -> Result<()> + 'static,
    ) -> Result<Var> {
        self.record_if(inputs.iter().any(|v| v.requires_grad()), op, inputs, output, backward)
    }

    /// As [`Tape::record`], for an op that may reach parameters by itself: recorded if `wanted`.
    pub(super) fn record_if(
        &self,
        wanted: bool,
        op: &'static str,
        inputs: &[&Var],
        output: Tensor,
        backward: impl FnOnce(Tensor, &mut BackwardContext<'_>) -> Result<()> + 'static,
    ) -> Result<Var> {
        self.check_output(op, &output)?;
        let inputs = self.inputs_of(op, inputs)?;
        if !self.mode.recording || !wanted {
            return Ok(Var::constant(output));
        }
        let place = if self.mode.check_finite { self.place() } else { None };
        let node = Node { op, place, inputs, kind: Kind::Op(Box::new(backward)) };
        Ok(Var { value: output, node: Some(self.push(node)) })
    }

    /// The result of an op that has no backward: an [`Error::NoBackward`] if a gradient would have to flow through it.
    pub fn record_inference_only(&self, op: &'static str, inputs: &[&Var], output: Tensor) -> Result<Var> {
        self.refuse_recording(op, inputs)?;
        self.check_output(op, &output)?;
        Ok(Var::constant(output))
    }

    /// The check of [`Tape::record_inference_only`] alone, for an op to make before it computes.
    pub fn refuse_recording(&self, op: &'static str, inputs: &[&Var]) -> Result<()> {
        if self.mode.recording && inputs.iter().any(|v| v.requires_grad()) {
            return Err(Error::NoBackward { op });
        }
        Ok(())
    }

    /// Walks back from a loss (one element) and adds the gradients of parameters to `gradients`. Saved state is freed
    /// on the way.
    pub fn backward(self, loss: &Var, gradients: &mut Gradients) -> Result<()> {
        let seed = match loss.value().numel() {
            1 => Tensor::full_on(loss.value().device(), loss.shape(), loss.dtype(), 1.0)?,
            _ => {
                let detail = format!("a loss has one element, got shape {:?}", loss.shape());
                return Err(Error::Shape { op: "backward", detail });
            }
        };
        self.walk(loss, seed, &[], gradients).map(|_| ())
    }

    /// Walks back from `output` with the gradient `seed`; returns the gradients of `inputs` (made by [`Tape::input`];
    /// `None` where none arrived) and adds those of parameters to `gradients`.
    pub fn backward_inputs(
        self,
        output: &Var,
        seed: Tensor,
        inputs: &[&Var],
        gradients: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        if seed.shape() != output.shape() {
            let detail = format!("gradient {:?} for an output {:?}", seed.shape(), output.shape());
            return Err(Error::Shape { op: "backward", detail });
        }
        self.walk(output, seed, inputs, gradients)
    }

    fn walk(
        self,
        output: &Var,
        seed: Tensor,
        inputs: &[&Var],
        gradients: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        let wanted = self.inputs_of("backward", inputs)?;
        let [Some(start)] = self.inputs_of("backward", &[output])?[..] else {
            let what = "backward".to_string();
            let detail = "the result does not depend on any trainable parameter".to_string();
            return Err(Error::Model { what, detail });
        };
        let check = self.mode.check_finite;
        let mut nodes = self.nodes.into_inner();
        nodes.truncate(start + 1);
        let mut slots: Vec<Option<Tensor>> = vec![None; nodes.len()];
        slots[start] = Some(seed);
        let mut arrived: HashMap<usize, Tensor> = HashMap::new();
        while let Some(node) = nodes.pop() {
            let index = nodes.len();
            let Some(grad) = slots[index].take() else { continue };
            if check && grad.first_non_finite()?.is_some() {
                return Err(Error::NonFinite { what: format!("gradient of {}", node.op), place: node.place });
            }
            match node.kind {
                Kind::Param(id) => gradients.add(id, grad)?,
                Kind::Input => {
                    arrived.insert(index, grad);
                }
                Kind::Op(backward) => {
                    let mut context =
                        BackwardContext { inputs: node.inputs, slots: &mut slots[..index], gradients };
                    backward(grad, &mut context)?;
                }
            }
        }
        Ok(wanted.into_iter().map(|index| arrived.remove(&index?)).collect())
    }
}

/// Ends a [`Tape::scope`] when dropped.
pub struct ScopeGuard<'a>(&'a Tape);

impl Drop for ScopeGuard<'_> {
    fn drop(&mut self) {
        self.0.scopes.borrow_mut().pop();
    }
}
