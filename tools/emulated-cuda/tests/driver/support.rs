//! What the tests share: contexts, kernels, raw calls.

use std::{
    ffi::c_void,
    sync::{Arc, OnceLock},
};

use cuda::machine::Options;
use cudarc::{
    driver::{CudaContext, CudaFunction, DriverError, sys},
    nvrtc::Ptx,
};

/// Kernels over `n` words at `a`: `add` adds one, `scale` multiplies by three, `crash` stores behind the end,
/// `trap` traps; and one with launch bounds.
pub const KERNELS: &str = r#"
.version 8.0
.target sm_80
.address_size 64

.visible .global .align 4 .u32 counter[4] = {7, 0, 0, 0};

.visible .entry add(.param .u64 add_0, .param .u32 add_1)
{
    .reg .pred %p<2>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [add_0];
    ld.param.u32 %r1, [add_1];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r6, [%rd4];
    add.u32 %r6, %r6, 1;
    st.global.u32 [%rd4], %r6;
DONE:
    ret;
}

.visible .entry scale(.param .u64 scale_0, .param .u32 scale_1)
{
    .reg .pred %p<2>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [scale_0];
    ld.param.u32 %r1, [scale_1];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r6, [%rd4];
    mul.lo.u32 %r6, %r6, 3;
    st.global.u32 [%rd4], %r6;
DONE:
    ret;
}

.visible .entry crash(.param .u64 crash_0, .param .u32 crash_1)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [crash_0];
    ld.param.u32 %r1, [crash_1];
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r1;
    ret;
}

.visible .entry trap()
{
    trap;
}

.visible .entry bounded(.param .u64 bounded_0, .param .u32 bounded_1) .maxntid 128, 1, 1
{
    ret;
}
"#;

/// Makes the driver of this process the emulated one.
pub fn install() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| cuda::install(Options::default()).expect("the driver can be installed"));
}

/// A context of the calling test's own.
pub fn context() -> Arc<CudaContext> {
    install();
    CudaContext::new_non_primary(0, 0).expect("a context")
}

/// A function of [`KERNELS`] in a context.
pub fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(KERNELS)).expect("the module loads");
    module.load_function(name).expect("the module has the function")
}

/// The code of a failed call.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, DriverError>) -> sys::CUresult {
    result.expect_err("the call fails").0
}

/// The codes that tests expect.
pub use sys::CUresult as Code;

/// A kernel's arguments in raw form: a pointer and a count.
pub struct Arguments {
    address: u64,
    count: u32,
}

impl Arguments {
    /// The arguments of a kernel of [`KERNELS`].
    pub fn new(address: u64, count: u32) -> Self {
        Self { address, count }
    }

    /// The array of pointers to them.
    pub fn pointers(&mut self) -> [*mut c_void; 2] {
        [(&raw mut self.address).cast(), (&raw mut self.count).cast()]
    }
}

/// Launches a kernel of [`KERNELS`] in its simplest shape on a stream.
pub fn launch(
    function: sys::CUfunction,
    threads: u32,
    stream: sys::CUstream,
    address: u64,
    count: u32,
) -> Code {
    let mut arguments = Arguments::new(address, count);
    let mut pointers = arguments.pointers();
    // SAFETY: the pointers are those of the two arguments that every kernel of this shape has.
    unsafe {
        sys::cuLaunchKernel(
            function,
            1,
            1,
            1,
            threads,
            1,
            1,
            0,
            stream,
            pointers.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
}

/// Calls a raw function and expects success.
macro_rules! ok {
    ($call:expr) => {
        // SAFETY: the test passes places of its own and handles that the driver checks.
        assert_eq!(unsafe { $call }, crate::driver::support::Code::CUDA_SUCCESS)
    };
}
pub(super) use ok;

/// Calls a raw function and expects a code.
macro_rules! fails {
    ($call:expr, $code:ident) => {
        // SAFETY: the test passes places of its own and handles that the driver checks.
        assert_eq!(unsafe { $call }, crate::driver::support::Code::$code)
    };
}
pub(super) use fails;

/// A place for a result.
pub fn place<T>() -> T {
    // SAFETY: used for numbers and pointers, of which zeros are values.
    unsafe { std::mem::zeroed() }
}

/// Pinned memory of `n` words, freed by the context.
pub fn pinned(n: usize) -> &'static mut [u32] {
    let mut pointer = place::<*mut c_void>();
    ok!(sys::cuMemHostAlloc(&mut pointer, n * 4, 0));
    // SAFETY: the memory was just allocated and lives until the context goes; the test keeps to that.
    unsafe { std::slice::from_raw_parts_mut(pointer.cast(), n) }
}
