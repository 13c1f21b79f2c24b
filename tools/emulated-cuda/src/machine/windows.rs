//! Where the windows of the generic address space lie.
//!
//! They lie above every address that a process can map, so that none can be mistaken for a pointer to global memory.

use super::op::Window;

/// Start of the window onto shared memory.
pub const SHARED: u64 = 0x0101_0000_0000_0000;
/// Start of the window onto local memory.
pub const LOCAL: u64 = 0x0102_0000_0000_0000;
/// Start of the window onto the parameters of the kernel.
pub const PARAM: u64 = 0x0103_0000_0000_0000;

/// Start of a window in the generic address space.
pub fn base(window: Window) -> u64 {
    match window {
        Window::Generic | Window::Global => 0,
        Window::Shared => SHARED,
        Window::Local => LOCAL,
        Window::Param => PARAM,
    }
}

/// The window that a generic address lies in, and the address there.
#[inline(always)]
pub fn resolve(address: u64) -> (Window, u64) {
    match address >> 32 {
        0x0101_0000 => (Window::Shared, address - SHARED),
        0x0102_0000 => (Window::Local, address - LOCAL),
        0x0103_0000 => (Window::Param, address - PARAM),
        _ => (Window::Global, address),
    }
}
