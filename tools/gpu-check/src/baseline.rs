//! What a GPU's owner compares with: copies on the device, and the matrix products of cuBLAS and cuBLASLt, which are loaded at run
//! time if they are installed. The engine needs neither.

use std::sync::Arc;

use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, sys::cublasOperation_t};
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::{CudaContext, CudaStream};
use half::bf16;
use warptune::device::Device;
use warptune::tensor::{DType, Tensor};
use warptune::{Error, Result};

use crate::Sizes;
use crate::clock::seconds;
use crate::report::Measured;

/// Bytes a second that a copy on the device reads and writes.
pub fn copy_bandwidth(device: Device, sizes: Sizes) -> Result<f64> {
    let elements = if sizes.full { 256 << 20 } else { 1 << 16 };
    let from = Tensor::zeros_on(device, &[elements], DType::F32)?;
    let time = seconds(device, || from.copied().map(drop))?;
    Ok(2.0 * 4.0 * elements as f64 / time)
}

/// cuBLAS and cuBLASLt on a device.
pub struct Blas {
    device: Device,
    stream: Arc<CudaStream>,
    cublas: Option<CudaBlas>,
    cublaslt: Option<CudaBlasLT>,
}

fn refuse(what: &str, e: impl std::fmt::Debug) -> Error {
    Error::Cuda { what: what.into(), detail: format!("{e:?}") }
}

impl Blas {
    /// Loads the libraries that are there.
    pub fn new(device: Device) -> Result<Blas, String> {
        // SAFETY: both load a library and run its initialisers, as any program that uses it does.
        let present =
            unsafe { (cudarc::cublas::sys::is_culib_present(), cudarc::cublaslt::sys::is_culib_present()) };
        if present == (false, false) {
            return Err("libcublas is not installed".into());
        }
        let Device::Cuda(ordinal) = device else { return Err("not a CUDA device".into()) };
        let context = CudaContext::new(ordinal).map_err(|e| e.to_string())?;
        let stream = context.default_stream();
        let cublas = present.0.then(|| CudaBlas::new(stream.clone())).transpose();
        let cublaslt = present.1.then(|| CudaBlasLT::new(stream.clone())).transpose();
        Ok(Blas {
            device,
            stream,
            cublas: cublas.map_err(|e| e.to_string())?,
            cublaslt: cublaslt.map_err(|e| e.to_string())?,
        })
    }

    /// Times y = x W^T of the sizes of the kernels named `matmul fwd bf16` and notes it beside them.
    pub fn compare(&self, kernels: &mut [Measured]) -> Result<()> {
        for kernel in kernels.iter_mut() {
            let Some([m, n, k]) = crate::cases::product(&kernel.name) else { continue };
            kernel.cublas = self.cublas.as_ref().map(|blas| self.time_cublas(blas, m, n, k)).transpose()?;
            kernel.cublaslt = self.cublaslt.as_ref().map(|blas| self.time_lt(blas, m, n, k)).transpose()?;
        }
        Ok(())
    }

    /// Both libraries count in columns: y^T = W x^T.
    fn time_cublas(&self, blas: &CudaBlas, m: usize, n: usize, k: usize) -> Result<f64> {
        let fail = |e| refuse("cuBLAS", e);
        let zeros = |len| self.stream.alloc_zeros::<bf16>(len).map_err(|e| refuse("memory", e));
        let (x, w, mut y) = (zeros(m * k)?, zeros(n * k)?, zeros(m * n)?);
        let config = GemmConfig {
            transa: cublasOperation_t::CUBLAS_OP_T,
            transb: cublasOperation_t::CUBLAS_OP_N,
            m: n as i32,
            n: m as i32,
            k: k as i32,
            alpha: bf16::ONE,
            lda: k as i32,
            ldb: k as i32,
            beta: bf16::ZERO,
            ldc: n as i32,
        };
        self.timed(|| {
            // SAFETY: the sizes and leading dimensions are those of the three slices.
            unsafe { blas.gemm(config, &w, &x, &mut y) }.map_err(fail)
        })
    }

    fn time_lt(&self, blas: &CudaBlasLT, m: usize, n: usize, k: usize) -> Result<f64> {
        let fail = |e| refuse("cuBLASLt", e);
        let zeros = |len| self.stream.alloc_zeros::<bf16>(len).map_err(|e| refuse("memory", e));
        let (x, w, mut y) = (zeros(m * k)?, zeros(n * k)?, zeros(m * n)?);
        let config = MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m: n as u64,
            n: m as u64,
            k: k as u64,
            alpha: 1.0,
            lda: k as i64,
            ldb: k as i64,
            beta: 0.0,
            ldc: n as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        self.timed(|| {
            // SAFETY: the sizes and leading dimensions are those of the three slices.
            unsafe { blas.matmul(config, &w, &x, &mut y, None, None) }.map_err(fail)
        })
    }

    /// Their work is on another stream than the engine's, so that is waited for as well.
    fn timed(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        const CALLS: u32 = 20;
        let wait = || self.stream.synchronize().map_err(|e| refuse("waiting", e));
        self.device.cuda()?.synchronize()?;
        work()?;
        wait()?;
        let mut times = Vec::new();
        for _ in 0..5 {
            let started = std::time::Instant::now();
            (0..CALLS).try_for_each(|_| work())?;
            wait()?;
            times.push(started.elapsed().as_secs_f64() / f64::from(CALLS));
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}
