//! Ctrl-C.

use crate::train::Interrupt;
use crate::{Error, Result};

/// A flag that Ctrl-C (or a request to terminate) sets, with a message; a second one ends the process at once.
pub(super) fn on_ctrl_c() -> Result<Interrupt> {
    handle("\nstopping after this step (once more: at once)")
}

/// As [`on_ctrl_c`], without a message.
pub(super) fn on_ctrl_c_quietly() -> Result<Interrupt> {
    handle("")
}

fn handle(message: &'static str) -> Result<Interrupt> {
    let interrupt = Interrupt::new();
    let flag = interrupt.clone();
    let handler = move || {
        if flag.request() {
            std::process::exit(i32::from(super::INTERRUPTED));
        }
        if !message.is_empty() {
            eprintln!("{message}");
        }
    };
    match ctrlc::set_handler(handler) {
        Ok(()) => Ok(interrupt),
        Err(e) => Err(Error::unsupported("Ctrl-C", format!("its handler cannot be set: {e}"))),
    }
}
