//! The border to C: pointers that callers pass, and the macro that defines exported functions.

use std::ffi::{CStr, c_char, c_void};

use super::status::{Outcome, Status};

/// An exported function.
#[derive(Clone, Copy)]
pub struct Export {
    /// Its symbol.
    pub name: &'static str,
    /// Where it lies.
    pub address: *const c_void,
}

// SAFETY: the address is that of a function, which every thread may read.
unsafe impl Sync for Export {}

/// What the null stream means to a caller: its build option `--default-stream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultStream {
    /// The one stream of a context that waits for all others.
    Legacy,
    /// A stream of the calling thread (symbols that end in `_ptds` and `_ptsz`).
    PerThread,
}

/// Where a caller wants a result: null, or valid for writes. Exists only as an argument of an exported
/// function, whose contract that is.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Refuses null.
    pub fn check(self) -> Outcome {
        if self.0.is_null() { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    /// Whether the caller does not want it.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Hands the result out; null is an error.
    pub fn set(self, value: T) -> Outcome {
        self.check()?;
        // SAFETY: not null, so valid by the contract of the exported function that it is an argument of.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Hands the result out to a caller that may not want it.
    pub fn offer(self, value: T) {
        // Null says that it is not wanted.
        let _ = self.set(value);
    }

    /// Hands several results out, to a buffer that is large enough by the same contract.
    pub fn set_all(self, values: impl IntoIterator<Item = T>) -> Outcome {
        self.check()?;
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: the caller has room for as many values as the function's documentation says it writes.
            unsafe { self.0.add(i).write(value) };
        }
        Ok(())
    }

    /// Reads what the caller put there before the call.
    pub fn get(self) -> Outcome<T>
    where
        T: Copy,
    {
        self.check()?;
        // SAFETY: not null, so valid by contract; the function is documented to read it first.
        Ok(unsafe { self.0.read() })
    }

    /// The same place, seen as another type: for functions whose result depends on an enumerator.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// The place of the element `index` of an array.
    pub fn at(self, index: usize) -> Self {
        Self(if self.0.is_null() { self.0 } else { self.0.wrapping_add(index) })
    }

    /// A place whose address came inside a structure that the caller passed.
    pub fn from_address(address: usize) -> Self {
        Self(address as *mut T)
    }
}

impl Out<u8> {
    /// Writes text and its NUL, cut to fit into `room` bytes.
    pub fn set_text(self, text: &str, room: usize) -> Outcome {
        let last = room.checked_sub(1).ok_or(Status::INVALID_VALUE)?;
        self.set_all(text.bytes().take(last).chain([0]))
    }
}

/// What a caller passes by reference: null, or valid for reads, under the same contract as [`Out`].
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// Whether nothing was passed.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Address of what was passed.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// Reads it; null is an error.
    pub fn get(self) -> Outcome<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so valid by the contract of the exported function that it is an argument of. C
        // callers may hold packed images in memory (fatbins), so alignment is not taken for granted.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Reads the element `index` of an array.
    pub fn at(self, index: usize) -> Outcome<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: as in `get`; the array has as many elements as the caller said.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// Reads an array.
    pub fn all(self, len: usize) -> Outcome<Vec<T>> {
        (0..len).map(|i| self.at(i)).collect()
    }

    /// A pointer that came inside a structure that the caller passed.
    pub fn from_address(address: usize) -> Self {
        Self(address as *const T)
    }
}

/// A C string that a caller passes, under the same contract as [`In`].
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// Its text; null and what is not UTF-8 are errors.
    pub fn get(self) -> Outcome<String> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so a NUL-terminated string by the contract of the exported function.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Status::INVALID_VALUE)
    }

    /// Its bytes without the NUL.
    pub fn bytes(self) -> Outcome<Vec<u8>> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: as in `get`.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes().to_vec())
    }

    /// A string that came inside a structure that the caller passed.
    pub fn from_address(address: usize) -> Self {
        Self(address as *const c_char)
    }
}

/// The return value of an exported function.
pub fn answer(call: impl FnOnce() -> Outcome) -> Status {
    match call() {
        Ok(()) => Status::SUCCESS,
        Err(status) => status,
    }
}

/// Defines exported functions and `EXPORTS`, the list of them.
///
/// - `fn name(...) { body }` exports a symbol whose body returns an [`Outcome`].
/// - `alias(other) fn name...` exports it under a second name too.
/// - `per_thread(other, default) fn name...` exports it twice: `default` tells what the null stream means.
macro_rules! exports {
    ($(
        $(#[$doc:meta])*
        $(alias($alias:ident))?
        $(per_thread($per_thread:ident, $default:ident))?
        fn $name:ident $args:tt $body:block
    )*) => {
        /// The functions that this file exports.
        pub const EXPORTS: &[$crate::driver::ffi::Export] = &[$(
            exports!(@row $name),
            $(exports!(@row $alias),)?
            $(exports!(@row $per_thread),)?
        )*];
        $(
            exports!(@define [$(#[$doc])*] $name [$($default = Legacy)?] $args $body);
            $(exports!(@define
                [#[doc = "The same under its older name."]]
                $alias [] $args $body
            );)?
            $(exports!(@define
                [#[doc = "The same for callers whose null stream is the thread's own."]]
                $per_thread [$default = PerThread] $args $body
            );)?
        )*
    };
    (@row $name:ident) => {
        $crate::driver::ffi::Export { name: stringify!($name), address: $name as *const std::ffi::c_void }
    };
    (@define [$(#[$doc:meta])*] $name:ident [$($default:ident = $which:ident)?]
        ($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Every pointer is null, or valid as the driver API documents it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::driver::status::Status {
            $(let $default = $crate::driver::ffi::DefaultStream::$which;)?
            $crate::driver::ffi::answer(move || $body)
        }
    };
}
pub(crate) use exports;
