//! Ctrl-C.

use crate::train::Interrupt;
use crate::{Error, Result};

/// A flag that Ctrl-C (or a request to terminate) sets; a second one ends the process at once.
pub(super) fn on_ctrl_c() -> Result<Interrupt> {
    let interrupt = Interrupt::new();
    let flag = interrupt.clone();
    let handler = move || {
        if flag.request() {
            std::process::exit(i32::from(super::INTERRUPTED));
        }
        eprintln!("\nstopping after this step (once more: at once)");
    };
    match ctrlc::set_handler(handler) {
        Ok(()) => Ok(interrupt),
        Err(e) => Err(Error::Interrupted(format!("Ctrl-C cannot be handled: {e}"))),
    }
}
