//! Launching kernels: a launcher names the kernel's parameters, and its types are checked against the kernel that was
//! loaded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::CudaDevice;
use super::driver::check;
use crate::tensor::DType;
use crate::{Error, Result};

/// The kernels that build.rs put into the binary.
pub mod embedded {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// The blocks of a launch, the threads of a block, and its dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [usize; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
}

impl Grid {
    /// Blocks in one dimension.
    pub fn new(blocks: usize, threads: u32) -> Grid {
        Grid { blocks: [blocks, 1, 1], threads, shared: 0 }
    }
}

/// A device address as a kernel takes it; null for what is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pointer(pub u64);

impl Pointer {
    /// What is not there.
    pub const NULL: Pointer = Pointer(0);

    /// Whether 16 bytes can be loaded from it at once.
    pub fn is_aligned(self) -> bool {
        self.0.is_multiple_of(16)
    }
}

/// A kernel. It is named as the one for f32 or bf16; that for f16 is made of the same source, and has "f16" in the place of "bf16" in its
/// name, in a module of its own (kernels/common/elements.cuh).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    name: &'static str,
    f16: bool,
}

impl From<&'static str> for Entry {
    fn from(name: &'static str) -> Entry {
        Entry { name, f16: false }
    }
}

impl Entry {
    /// The kernel `name` of op `op`, or that for f16, if one of the operands' types is that.
    ///
    /// # Errors
    /// [`Error::DType`] for bf16 with f16: no kernel takes both.
    pub fn of(op: &'static str, name: &'static str, types: &[DType]) -> Result<Entry> {
        let f16 = types.contains(&DType::F16);
        if f16 && types.contains(&DType::BF16) {
            let detail = "bf16 and f16 operands; the CUDA kernels take one of the two, and f32";
            return Err(Error::DType { op, detail: detail.into() });
        }
        Ok(Entry { name, f16: f16 && name.contains("bf16") })
    }

    /// Its name in the module.
    fn symbol(self) -> Cow<'static, str> {
        if self.f16 { self.name.replace("bf16", "f16").into() } else { self.name.into() }
    }

    /// The module that has it, of the file `file`.
    fn module(self, file: &'static str) -> Cow<'static, str> {
        if self.f16 { format!("{file}_f16").into() } else { file.into() }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.symbol())
    }
}

/// A type that a kernel's parameter can have.
pub trait Argument: Copy {}
impl Argument for Pointer {}
impl Argument for u32 {}
impl Argument for i32 {}
impl Argument for u64 {}
impl Argument for i64 {}
impl Argument for f32 {}

/// A kernel's arguments, in the order of its parameters. Made by the macro `kernel!`.
pub trait Arguments {
    /// The .cu file, without its ending.
    const MODULE: &'static str;
    /// Sizes of the parameters in bytes.
    const SIZES: &'static [usize];
    /// Calls `f` with a pointer to each argument.
    fn with_pointers<R>(&mut self, f: impl FnOnce(&mut [*mut c_void]) -> R) -> R;
}

/// Declares the launcher of a kernel: a struct whose fields are the kernel's parameters, in order.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident in $module:literal { $($field:ident: $ty:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $name { $($field: $ty),+ }

        impl $crate::device::cuda::Arguments for $name {
            const MODULE: &'static str = $module;
            const SIZES: &'static [usize] = &[$(size_of::<$ty>()),+];
            fn with_pointers<R>(&mut self, f: impl FnOnce(&mut [*mut std::ffi::c_void]) -> R) -> R {
                fn pointer<T: $crate::device::cuda::Argument>(x: &mut T) -> *mut std::ffi::c_void {
                    std::ptr::from_mut(x).cast()
                }
                f(&mut [$(pointer(&mut self.$field)),+])
            }
        }
    };
}
pub(crate) use kernel;

/// Dynamic shared memory that a kernel can have without being opted in, in bytes.
const FREE_SHARED: u32 = 48 << 10;

#[derive(Default)]
pub(super) struct Loaded {
    modules: Mutex<HashMap<&'static str, usize>>,
    functions: Mutex<HashMap<Entry, Function>>,
}

/// A function of a loaded module; modules are never unloaded.
#[derive(Clone, Copy)]
struct Function {
    handle: usize,
    /// Sizes of the parameters of the launchers that fit it.
    sizes: &'static [usize],
    /// The largest dynamic shared memory that it has been opted into.
    shared: u32,
}

impl CudaDevice {
    /// Queues a kernel on the device's stream.
    ///
    /// # Errors
    /// [`Error::Cuda`] with the kernel, the grid and what the driver said; a launcher whose fields do not fit the kernel.
    pub(crate) fn launch<A: Arguments>(
        &'static self,
        entry: impl Into<Entry>,
        mut arguments: A,
        grid: Grid,
    ) -> Result<()> {
        let entry = entry.into();
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let function = self.function::<A>(entry, grid.shared)?;
        let too_many = || Error::Cuda {
            what: format!("kernel {entry}"),
            detail: format!("the grid {grid:?} is too large"),
        };
        let [x, y, z] = grid.blocks.map(u32::try_from);
        let blocks = (x.map_err(|_| too_many())?, y.map_err(|_| too_many())?, z.map_err(|_| too_many())?);
        let launched = arguments.with_pointers(|pointers| {
            // SAFETY: the function is alive (modules are never unloaded), its parameters have been compared with the
            // arguments when it was looked up, and the arguments are copied before the call returns. The memory that the
            // kernel touches is the device's own: buffers go back to the allocator in stream order.
            unsafe {
                let handle = function.handle as sys::CUfunction;
                result::launch_kernel(
                    handle,
                    blocks,
                    (grid.threads, 1, 1),
                    grid.shared,
                    self.stream(),
                    pointers,
                )
            }
        });
        check(launched, || format!("kernel {entry} on {grid:?}"))
    }

    fn function<A: Arguments>(&self, entry: Entry, shared: u32) -> Result<Function> {
        let mut functions = self.loaded.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let function = match functions.get_mut(&entry) {
            Some(function) => function,
            None => {
                let function = self.look_up::<A>(entry)?;
                functions.entry(entry).or_insert(function)
            }
        };
        if function.sizes != A::SIZES {
            return Err(mismatch::<A>(entry, function.sizes));
        }
        // More than 48 KiB must be asked for.
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is alive.
            let set = unsafe {
                result::function::set_function_attribute(
                    function.handle as sys::CUfunction,
                    attribute,
                    shared as i32,
                )
            };
            check(set, || format!("{shared} bytes of shared memory for kernel {entry}"))?;
            function.shared = shared;
        }
        Ok(*function)
    }

    fn look_up<A: Arguments>(&self, entry: Entry) -> Result<Function> {
        let of = entry.module(A::MODULE);
        let module = self.module(&of)?;
        let name = CString::new(entry.symbol().as_ref())
            .map_err(|_| Error::model(entry.name, "not a name of a kernel"))?;
        // SAFETY: the module is alive.
        let handle = unsafe { result::module::get_function(module as sys::CUmodule, name) };
        let handle = check(handle, || format!("kernel {entry} of module {of}"))?;
        if let Some(sizes) = parameter_sizes(handle)
            && sizes != A::SIZES
        {
            return Err(mismatch::<A>(entry, &sizes));
        }
        Ok(Function { handle: handle as usize, sizes: A::SIZES, shared: FREE_SHARED })
    }

    /// Loads every module now: whether the driver takes them.
    ///
    /// # Errors
    /// [`Error::Cuda`] for the first that it refuses.
    pub fn load_all(&self) -> Result<()> {
        self.bind()?;
        embedded::MODULES.iter().try_for_each(|(name, _)| self.module(name).map(|_| ()))
    }

    fn module(&self, name: &str) -> Result<usize> {
        let mut modules = self.loaded.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&module) = modules.get(name) {
            return Ok(module);
        }
        let image = embedded::MODULES.iter().find(|(n, _)| *n == name);
        let Some(&(name, image)) = image else {
            return Err(Error::Cuda { what: format!("module {name}"), detail: "not in this binary".into() });
        };
        // SAFETY: the image is a fatbin, or PTX that build.rs ended with a zero.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let module = check(module, || format!("loading the kernels of {name} ({})", embedded::ORIGIN))?;
        modules.insert(name, module as usize);
        Ok(module as usize)
    }
}

/// The error of a launcher whose fields are not the kernel's parameters.
fn mismatch<A: Arguments>(entry: Entry, sizes: &[usize]) -> Error {
    let detail = format!("its parameters take {sizes:?} bytes, the launcher has {:?}", A::SIZES);
    Error::Cuda { what: format!("kernel {entry}"), detail }
}

/// Sizes of a kernel's parameters; none where the driver is too old to tell.
fn parameter_sizes(handle: sys::CUfunction) -> Option<Vec<usize>> {
    // The call came with driver 12.4.
    const SINCE: i32 = 12040;
    if super::driver::version().ok()? < SINCE {
        return None;
    }
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is alive, the pointers are valid for the call. Past the last parameter it is an error.
        let found = unsafe { sys::cuFuncGetParamInfo(handle, sizes.len(), &mut offset, &mut size) };
        if found.result().is_err() {
            return Some(sizes);
        }
        sizes.push(size);
    }
}
