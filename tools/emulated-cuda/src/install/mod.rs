//! Makes this process's own copy of the driver the one that `dlopen("libcuda.so")` finds.
//!
//! A program that links this crate has the driver inside its executable, where the loader does not look. So
//! [`install`] loads two tiny shared objects, named `libcuda.so` and `libcuda.so.1`, that hold nothing but
//! the driver's symbols and where they lie in the executable. The C library matches later requests by name
//! and finds them loaded. No file is left behind, and the driver that programs reach this way shares its
//! state with the functions of this crate.

mod image;

use std::{
    ffi::CStr,
    io::Write,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use crate::{driver, machine::Options};

/// The names under which programs look for the driver.
const NAMES: [&CStr; 2] = [c"libcuda.so.1", c"libcuda.so"];

/// The driver could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The driver of this process is there, and it is another.
    #[error(
        "{0} is loaded already, by its path or by a program that looked for it first: install before that"
    )]
    Present(String),
    /// It was installed with other options.
    #[error("the driver runs already with other options: {0:?}")]
    Options(Box<Options>),
    /// The system refused.
    #[error("cannot load the driver's symbols: {0}")]
    System(String),
}

/// Makes `dlopen("libcuda.so")` and `dlopen("libcuda.so.1")` find this crate's driver in this process, with
/// these options. Again with the same options, it does nothing.
///
/// # Errors
/// When another driver is loaded, when the options differ from those that the driver has, or when the system
/// refuses.
///
/// # Examples
/// ```no_run
/// cuda::install(cuda::machine::Options::default())?;
/// // From here on cudarc, and whatever else looks for a driver, finds this one.
/// # Ok::<(), cuda::InstallError>(())
/// ```
pub fn install(options: Options) -> Result<(), InstallError> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed && let Some(name) = NAMES.iter().find(|name| is_loaded(name)) {
        return Err(InstallError::Present(name.to_string_lossy().into_owned()));
    }
    let actual = driver::start(options.clone());
    if *actual != options {
        return Err(InstallError::Options(Box::new(actual.clone())));
    }
    if !*installed {
        let symbols: Vec<_> = driver::exports().map(|export| (export.name, export.address as u64)).collect();
        NAMES.iter().try_for_each(|name| load(name, &symbols))?;
        *installed = true;
    }
    Ok(())
}

/// Whether a shared object of this name is in the process.
fn is_loaded(name: &CStr) -> bool {
    // SAFETY: the name is a C string; with RTLD_NOLOAD nothing is loaded and no code runs. The reference that
    // this takes on an object that is there keeps it there, which is harmless.
    !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }.is_null()
}

/// Loads a shared object of this name with these symbols.
fn load(name: &CStr, symbols: &[(&str, u64)]) -> Result<(), InstallError> {
    let system = |error: std::io::Error| InstallError::System(error.to_string());
    let bytes = image::build(&name.to_string_lossy(), symbols);
    // SAFETY: the name is a C string; the result is checked.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(system(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    std::fs::File::from(file.try_clone().map_err(system)?).write_all(&bytes).map_err(system)?;
    // SAFETY: the path ends with a NUL. The object has no code, so loading it runs none; its symbols are
    // functions of this crate, which stay where they are.
    let handle = unsafe { libc::dlopen(path.as_ptr().cast(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        return Err(InstallError::System(last_error()));
    }
    // The loader knows the object by its path too, so nothing else may ever have that: the file stays open.
    let _ = file.into_raw_fd();
    if is_loaded(name) {
        Ok(())
    } else {
        Err(InstallError::System("this C library does not find shared objects by their names".into()))
    }
}

/// What the loader said last.
fn last_error() -> String {
    // SAFETY: the result is null or a C string that is good until this thread's next call of the loader.
    let error = unsafe { libc::dlerror() };
    if error.is_null() {
        return "unknown error".into();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned()
}
