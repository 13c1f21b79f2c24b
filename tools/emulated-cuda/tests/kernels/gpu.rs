//! What a case needs of a GPU, so that one case runs through the driver API as well as on the machine alone.

use std::fmt;

use bytemuck::Pod;

/// Why a case did not pass.
#[derive(Debug)]
pub enum Failure {
    /// The module was refused.
    Load(String),
    /// The launch ended with a report of a check: its kind, and all of it.
    Report(String, String),
    /// A result is not what it should be.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(text) => write!(f, "the module does not load: {text}"),
            Self::Report(kind, text) => write!(f, "a report, {kind}: {text}"),
            Self::Wrong(text) => write!(f, "a wrong result: {text}"),
        }
    }
}

/// Device memory, by number.
#[derive(Clone, Copy, Debug)]
pub struct Buffer(pub usize);

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    Buffer(Buffer),
    I32(i32),
    I64(i64),
    F32(f32),
    /// A structure of seven f32.
    F32x7([f32; 7]),
}

impl From<Buffer> for Arg {
    fn from(value: Buffer) -> Self {
        Self::Buffer(value)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<[f32; 7]> for Arg {
    fn from(value: [f32; 7]) -> Self {
        Self::F32x7(value)
    }
}

/// Blocks and threads.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cooperative: bool,
}

/// `blocks` blocks of `threads` threads.
pub fn line(blocks: usize, threads: u32) -> Shape {
    plane(blocks, 1, threads)
}

/// `x` times `y` blocks of `threads` threads.
pub fn plane(x: usize, y: usize, threads: u32) -> Shape {
    Shape { grid: [x as u32, y as u32, 1], block: [threads, 1, 1], cooperative: false }
}

/// A GPU with one module loaded.
pub trait Gpu {
    /// Memory that nothing has written.
    fn allocate(&mut self, bytes: usize) -> Buffer;
    /// Writes bytes at an offset.
    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]);
    /// Everything in a buffer.
    fn read(&mut self, buffer: Buffer) -> Vec<u8>;
    /// Runs a kernel to its end.
    fn launch(&mut self, kernel: &str, shape: Shape, args: &[Arg]) -> Result<(), Failure>;
}

/// A GPU, and what a case has read from it.
pub struct Session<'a> {
    gpu: &'a mut dyn Gpu,
    /// All that was downloaded, one after the other: two runs must agree in it.
    pub outputs: Vec<u8>,
}

impl<'a> Session<'a> {
    pub fn new(gpu: &'a mut dyn Gpu) -> Self {
        Self { gpu, outputs: Vec::new() }
    }

    /// Memory for so many values that nothing has written.
    pub fn output<T: Pod>(&mut self, len: usize) -> Buffer {
        self.gpu.allocate(len * size_of::<T>())
    }

    /// A copy of these values.
    pub fn upload<T: Pod>(&mut self, values: &[T]) -> Buffer {
        let buffer = self.output::<T>(values.len());
        self.gpu.write(buffer, 0, bytemuck::cast_slice(values));
        buffer
    }

    /// A copy of these values, followed by memory that nothing has written, up to `len` values in all.
    pub fn upload_front<T: Pod>(&mut self, values: &[T], len: usize) -> Buffer {
        let buffer = self.output::<T>(len);
        self.gpu.write(buffer, 0, bytemuck::cast_slice(values));
        buffer
    }

    /// A copy of these rows of `cols` values, each followed by memory that nothing has written up to `pitch` values.
    pub fn upload_rows<T: Pod>(&mut self, values: &[T], cols: usize, pitch: usize) -> Buffer {
        let rows = values.len() / cols;
        let buffer = self.output::<T>(rows * pitch);
        for (row, values) in values.chunks(cols).enumerate() {
            self.gpu.write(buffer, row * pitch * size_of::<T>(), bytemuck::cast_slice(values));
        }
        buffer
    }

    /// What a buffer holds.
    pub fn download<T: Pod>(&mut self, buffer: Buffer) -> Vec<T> {
        let bytes = self.gpu.read(buffer);
        self.outputs.extend_from_slice(&bytes);
        bytemuck::pod_collect_to_vec(&bytes)
    }

    /// What a buffer holds that is free to differ from run to run.
    pub fn download_unordered<T: Pod>(&mut self, buffer: Buffer) -> Vec<T> {
        bytemuck::pod_collect_to_vec(&self.gpu.read(buffer))
    }

    /// Runs a kernel to its end.
    pub fn launch(&mut self, kernel: &str, shape: Shape, args: &[Arg]) -> Result<(), Failure> {
        self.gpu.launch(kernel, shape, args)
    }
}

/// A kernel with its inputs and its reference.
#[derive(Clone, Copy)]
pub struct Case {
    /// For messages.
    pub name: &'static str,
    /// Name of the file with its PTX.
    pub file: &'static str,
    /// Runs it and compares.
    pub run: fn(&mut Session<'_>) -> Result<(), Failure>,
}
