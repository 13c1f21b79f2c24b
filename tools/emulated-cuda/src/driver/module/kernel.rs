//! Kernels of libraries: functions that belong to no context.

use std::ffi::{CString, c_char};

use super::{
    super::{
        device::{Ordinal, check_device},
        ffi::{Out, exports},
        handles::Id,
        state::{Current, current},
        status::{Outcome, Status},
    },
    Function,
    library::{self, Library},
};

/// A kernel of a library.
pub struct LibraryKernel {
    /// Its library.
    pub library: Id<Library>,
    /// Its name.
    pub name: CString,
}

/// The function of a kernel in the current context, which loads the library where it is not there yet.
pub fn function(current: &mut Current, kernel: Id<LibraryKernel>) -> Outcome<Id<Function>> {
    let found = current.state.kernels.get(kernel)?;
    let (library, name) = (found.library, found.name.clone());
    let module = library::module(current, library)?;
    let functions = &current.state.modules.get(module)?.functions;
    let name = name.to_str().map_err(|_| Status::NOT_FOUND)?;
    functions.get(name).copied().ok_or(Status::NOT_FOUND)
}

/// Does something with the function of a kernel in the current context.
fn with<T>(kernel: Id<LibraryKernel>, act: impl FnOnce(&mut Function) -> Outcome<T>) -> Outcome<T> {
    let mut current = current()?;
    let id = function(&mut current, kernel)?;
    act(current.state.functions.get_mut(id)?)
}

exports! {
    /// The function of a kernel in the current context.
    fn cuKernelGetFunction(out: Out<Id<Function>>, kernel: Id<LibraryKernel>) {
        out.check()?;
        let mut current = current()?;
        out.set(function(&mut current, kernel)?)
    }

    /// The library of a kernel.
    fn cuKernelGetLibrary(out: Out<Id<Library>>, kernel: Id<LibraryKernel>) {
        out.set(super::super::state::driver()?.lock().kernels.get(kernel)?.library)
    }

    /// The name of a kernel, which stays where it is for as long as the library is loaded.
    fn cuKernelGetName(out: Out<*const c_char>, kernel: Id<LibraryKernel>) {
        out.set(super::super::state::driver()?.lock().kernels.get(kernel)?.name.as_ptr())
    }

    /// An attribute, in the current context.
    fn cuKernelGetAttribute(out: Out<i32>, which: u32, kernel: Id<LibraryKernel>, device: Ordinal) {
        check_device(device)?;
        out.set(with(kernel, |function| function.attribute(which))?)
    }

    /// Sets an attribute, in the current context.
    fn cuKernelSetAttribute(which: u32, value: i32, kernel: Id<LibraryKernel>, device: Ordinal) {
        check_device(device)?;
        with(kernel, |function| function.set_attribute(which, value))
    }

    /// Offset and size of a parameter.
    fn cuKernelGetParamInfo(kernel: Id<LibraryKernel>, index: usize, offset: Out<usize>, size: Out<usize>) {
        with(kernel, |function| function.parameter(index, offset, size))
    }

    /// Sets the preferred split of L1 and shared memory, which changes nothing here.
    fn cuKernelSetCacheConfig(kernel: Id<LibraryKernel>, config: u32, device: Ordinal) {
        check_device(device)?;
        with(kernel, |_| if config <= 3 { Ok(()) } else { Err(Status::INVALID_VALUE) })
    }
}
