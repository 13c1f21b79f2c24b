//! Values in another type.

use warptune::autograd::{Tape, Var};
use warptune::ops::cast::cast;
use warptune::tensor::DType;

use super::FLOATS;
use crate::reference::stored;
use crate::support::devices::on_each;
use crate::support::gradcheck::forward_backward_at;
use crate::support::random::Random;
use crate::support::values;

#[test]
fn values_and_gradients_are_rounded_once() {
    let mut random = Random::new(1);
    for from in FLOATS {
        // bf16 and f16 do not meet on a device.
        for to in FLOATS.into_iter().filter(|&to| to == from || to == DType::F32 || from == DType::F32) {
            let inputs = [random.tensor(&[7, 33], from, 3.0)];
            let dy = random.tensor(&[7, 33], to, 3.0);
            let op = |tape: &Tape, v: &[Var]| cast(tape, &v[0], to);
            on_each(|device| {
                let outcome = forward_backward_at(device, &inputs, &dy, op).unwrap();
                assert_eq!((outcome.output.dtype(), outcome.grad(0).dtype()), (to, from));
                assert_eq!(values(&outcome.output), stored(&values(&inputs[0]), to));
                assert_eq!(values(outcome.grad(0)), stored(&values(&dy), from));
            });
        }
    }
}
