//! Problem files: a family of kernels in one PTX file, how each is launched, and the sizes to report on.
//!
//! ```toml
//! ptx = "gemm.ptx"                        # beside this file; or gemm.ptx.gz
//!
//! [[kernel]]
//! name = "gemm_bf16"                      # the .entry
//! grid = ["ceil_div(n, 64)", "ceil_div(m, 64)"]
//! block = [128]
//! dynamic_shared = 0
//! parameters = [
//!   { buffer = "bf16", length = "m * k" },
//!   { buffer = "bf16", length = "k * n" },
//!   { buffer = "f32", length = "m * n", fill = "none" },
//!   { buffer = "u32", rows = "m", values = ["row", "k"] },      # a table of whole numbers, row by row
//!   { buffer = "bf16", length = "k", addresses = "n" },         # an array of the addresses of n such buffers
//!   { scalar = "s32", value = "m" },
//!   { fields = [{ buffer = "u8", length = "m" }, { scalar = "f32", value = 0.5 }] },   # a struct, passed by value
//!   { table = [{ buffer = "f32", length = "m" }, { scalar = "u64", value = "m" }] },   # a struct in memory, of addresses too
//! ]
//! ideal = { operations = { bf16 = "2 * m * n * k" }, bytes = "2 * (m * k + k * n) + 4 * m * n" }
//! sizes = [{ name = "4096", m = 4096, n = 4096, k = 4096 }]
//! ```

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::expr::{Expr, Sizes};
use crate::model::Ideal;
use crate::{Error, Result};

/// A type of buffer elements and scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Type {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    /// Bytes.
    pub fn size(self) -> u64 {
        match self {
            Type::U8 | Type::S8 => 1,
            Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::S32 | Type::F32 => 4,
            Type::U64 | Type::S64 | Type::F64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
    }
}

/// What a buffer holds before the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// Random numbers: floats in -1..1, whole numbers below `below` (without it, of the whole range).
    #[default]
    Random,
    /// Zeros.
    Zeros,
    /// 0, `step`, 2 `step`, ...: offsets and indices.
    Steps,
    /// `step`, 2 `step`, 3 `step`, ...: ends of pieces of equal length.
    Ends,
    /// Nothing: an output.
    None,
}

/// A value of a scalar parameter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a number, or an expression of sizes as text")]
enum RawValue {
    Integer(i64),
    Float(f64),
    Text(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParameter {
    buffer: Option<Type>,
    length: Option<Expr>,
    #[serde(default)]
    fill: Fill,
    below: Option<Expr>,
    step: Option<Expr>,
    addresses: Option<Expr>,
    rows: Option<Expr>,
    values: Option<Vec<Expr>>,
    scalar: Option<Type>,
    value: Option<RawValue>,
    fields: Option<Vec<RawParameter>>,
    table: Option<Vec<RawParameter>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdeal {
    #[serde(default)]
    operations: BTreeMap<String, Expr>,
    #[serde(default)]
    bytes: Expr,
}

#[derive(Clone, Debug, Deserialize)]
struct RawSize {
    name: String,
    #[serde(flatten)]
    values: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKernel {
    name: String,
    grid: Vec<Expr>,
    block: Vec<Expr>,
    #[serde(default)]
    dynamic_shared: Expr,
    parameters: Vec<RawParameter>,
    #[serde(default)]
    ideal: RawIdeal,
    sizes: Vec<RawSize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    ptx: PathBuf,
    kernel: Vec<RawKernel>,
}

/// A parameter of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// The address of a buffer.
    Buffer {
        /// Its elements' type.
        ty: Type,
        /// Their number.
        length: u64,
        /// What they are.
        fill: Fill,
        /// The bound of random whole numbers, 0 for none.
        below: u64,
        /// The difference of [`Fill::Steps`] and [`Fill::Ends`].
        step: u64,
    },
    /// The address of an array of the addresses of so many buffers, which are alike.
    Addresses {
        /// Their number.
        count: u64,
        /// One of them.
        buffer: Box<Parameter>,
    },
    /// The address of a buffer with these bytes.
    Rows(Vec<u8>),
    /// A value, little-endian.
    Scalar(Vec<u8>),
    /// A struct; its members are scalars and addresses of buffers.
    Struct(Vec<Parameter>),
    /// The address of a struct in memory.
    Table(Vec<Parameter>),
}

impl Parameter {
    /// Bytes of the buffers; none if there are more than 2^64.
    pub fn buffer_bytes(&self) -> Option<u64> {
        match self {
            Parameter::Buffer { ty, length, .. } => length.checked_mul(ty.size()),
            Parameter::Addresses { count, buffer } => {
                buffer.buffer_bytes()?.checked_add(8)?.checked_mul(*count)
            }
            Parameter::Rows(bytes) => Some(bytes.len() as u64),
            Parameter::Scalar(_) => Some(0),
            Parameter::Struct(members) | Parameter::Table(members) => {
                members.iter().try_fold(0u64, |sum, member| sum.checked_add(member.buffer_bytes()?))
            }
        }
    }
}

/// One kernel on one problem size.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The kernel.
    pub kernel: String,
    /// The name of the size.
    pub size: String,
    /// The size's values.
    pub sizes: Sizes,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The parameters in order.
    pub parameters: Vec<Parameter>,
    /// The least that the problem asks for.
    pub ideal: Ideal,
}

impl Problem {
    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

/// A problem file.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The PTX file.
    pub ptx: PathBuf,
    /// Every kernel on every size.
    pub problems: Vec<Problem>,
}

impl Family {
    /// The PTX.
    ///
    /// # Errors
    /// If the file cannot be read or decompressed.
    pub fn text(&self) -> Result<String> {
        let file = std::fs::File::open(&self.ptx).map_err(Error::io(&self.ptx))?;
        let mut text = String::new();
        let read = match self.ptx.extension().is_some_and(|e| e == "gz") {
            true => GzDecoder::new(file).read_to_string(&mut text),
            false => { file }.read_to_string(&mut text),
        };
        read.map_err(Error::io(&self.ptx))?;
        Ok(text)
    }
}

/// Reads a problem file.
///
/// # Errors
/// If it cannot be read, or what makes no sense in it, and where.
pub fn read(path: &Path) -> Result<Family> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    parse(path, &text)
}

/// As [`read`], with the text of the file.
pub fn parse(path: &Path, text: &str) -> Result<Family> {
    let bad = |detail: String| Error::Problem { path: path.to_path_buf(), detail };
    let raw: RawFile = toml::from_str(text).map_err(|e| bad(e.to_string().trim_end().to_string()))?;
    let mut problems = Vec::new();
    for kernel in &raw.kernel {
        if kernel.sizes.is_empty() {
            return Err(bad(format!("{}: there is no size in sizes", kernel.name)));
        }
        for size in &kernel.sizes {
            let problem = kernel.problem(size);
            problems.push(problem.map_err(|why| bad(format!("{}, size {}: {why}", kernel.name, size.name)))?);
        }
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(Family { ptx: folder.join(raw.ptx), problems })
}

impl RawKernel {
    fn problem(&self, size: &RawSize) -> Result<Problem, String> {
        let sizes = &size.values;
        let parameter = |(i, parameter): (usize, &RawParameter)| {
            parameter.resolve(sizes).map_err(|why| format!("parameters[{i}]: {why}"))
        };
        let mut operations = Vec::new();
        for (unit, expr) in &self.ideal.operations {
            let value = expr.value(sizes).map_err(|why| format!("ideal.operations.{unit}: {why}"))?;
            operations.push((unit.clone(), value as f64));
        }
        let bytes = self.ideal.bytes.value(sizes).map_err(|why| format!("ideal.bytes: {why}"))?;
        let block = dims(&self.block, sizes).map_err(|why| format!("block: {why}"))?;
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        if threads > 1024 {
            return Err(format!("block: has {threads} threads; 1024 are possible"));
        }
        let grid = dims(&self.grid, sizes).map_err(|why| format!("grid: {why}"))?;
        if grid[0] > i32::MAX as u32 || grid[1..].iter().any(|&n| n > 65_535) {
            return Err(format!("grid: {grid:?} is more than 2147483647 x 65535 x 65535 blocks"));
        }
        let shared = self.dynamic_shared.value(sizes).map_err(|why| format!("dynamic_shared: {why}"))?;
        Ok(Problem {
            kernel: self.name.clone(),
            size: size.name.clone(),
            sizes: sizes.clone(),
            grid,
            block,
            dynamic_shared: u32::try_from(shared).map_err(|_| format!("dynamic_shared: is {shared}"))?,
            parameters: self.parameters.iter().enumerate().map(parameter).collect::<Result<_, _>>()?,
            ideal: Ideal { operations, bytes: bytes as f64 },
        })
    }
}

/// One to three dimensions; missing ones are 1.
fn dims(exprs: &[Expr], sizes: &Sizes) -> Result<[u32; 3], String> {
    if exprs.is_empty() || exprs.len() > 3 {
        return Err(format!("has {} dimensions; one to three are possible", exprs.len()));
    }
    let mut dims = [1; 3];
    for (dim, expr) in dims.iter_mut().zip(exprs) {
        let value = expr.value(sizes)?;
        *dim = u32::try_from(value)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| format!("is {value} in a dimension"))?;
    }
    Ok(dims)
}

impl RawParameter {
    fn resolve(&self, sizes: &Sizes) -> Result<Parameter, String> {
        let alone =
            self.length.is_none() && self.below.is_none() && self.step.is_none() && self.addresses.is_none();
        let (alone, tabled) =
            (alone && self.rows.is_none() && self.values.is_none(), alone && self.value.is_none());
        let members = |name: &str, members: &[RawParameter]| -> Result<Vec<Parameter>, String> {
            let member = |(i, member): (usize, &RawParameter)| match (&member.fields, &member.table) {
                (None, None) => member.resolve(sizes).map_err(|why| format!("{name}[{i}]: {why}")),
                _ => Err(format!("{name}[{i}]: a struct in a struct")),
            };
            members.iter().enumerate().map(member).collect()
        };
        let nothing_else = alone && tabled && self.buffer.is_none() && self.scalar.is_none();
        match (&self.fields, &self.table) {
            (None, None) => {}
            (Some(fields), None) if nothing_else => return members("fields", fields).map(Parameter::Struct),
            (None, Some(table)) if nothing_else => return members("table", table).map(Parameter::Table),
            _ => return Err("a struct has nothing beside it".to_string()),
        }
        match (self.buffer, self.scalar) {
            (Some(ty), None) if tabled && self.fill == Fill::Random => {
                match (&self.rows, &self.values) {
                    (Some(rows), Some(values)) => table(ty, rows, values, sizes).map(Parameter::Rows),
                    _ => Err("a buffer needs a length, or rows and their values".to_string()),
                }
            }
            (Some(ty), None) => {
                if self.value.is_some() || self.rows.is_some() || self.values.is_some() {
                    return Err("a buffer has no value, but a length".to_string());
                }
                let length = self.length.as_ref().ok_or("a buffer needs a length")?.value(sizes)?;
                let number = |expr: &Option<Expr>, otherwise: u64| match expr {
                    Some(expr) => expr.value(sizes),
                    None => Ok(otherwise),
                };
                let (below, step) = (number(&self.below, 0)?, number(&self.step, 1)?);
                if self.below.is_some() && (below == 0 || ty.is_float() || self.fill != Fill::Random) {
                    return Err("below is a bound above 0 for random whole numbers".to_string());
                }
                if self.step.is_some() && !matches!(self.fill, Fill::Steps | Fill::Ends) {
                    return Err("step goes with fill = \"steps\" or \"ends\"".to_string());
                }
                let buffer = Parameter::Buffer { ty, length, fill: self.fill, below, step };
                match &self.addresses {
                    None => Ok(buffer),
                    Some(count) => {
                        Ok(Parameter::Addresses { count: count.value(sizes)?, buffer: Box::new(buffer) })
                    }
                }
            }
            (None, Some(ty)) if alone => {
                let value = self.value.as_ref().ok_or("a scalar needs a value")?;
                Ok(Parameter::Scalar(scalar(ty, value, sizes)?))
            }
            _ => Err("is one of { buffer = TYPE, length = ... }, { scalar = TYPE, value = ... }, { fields = [...] } and \
                      { table = [...] }"
                .to_string()),
        }
    }
}

/// The bytes of a table of whole numbers: for each row the values, which may name it.
fn table(ty: Type, rows: &Expr, values: &[Expr], sizes: &Sizes) -> Result<Vec<u8>, String> {
    const MOST_ROWS: u64 = 1 << 20;
    let rows = rows.value(sizes)?;
    if ty.is_float() || rows > MOST_ROWS {
        return Err(format!("a table has up to {MOST_ROWS} rows of whole numbers"));
    }
    let size = ty.size() as usize;
    let mut sizes = sizes.clone();
    let mut bytes = Vec::new();
    for row in 0..rows {
        sizes.insert("row".to_string(), row);
        for value in values {
            let value = value.value(&sizes)?;
            let (low, high) = (value.to_le_bytes(), value.checked_shr(8 * size as u32).unwrap_or(0));
            if high > 0 {
                return Err(format!("row {row}: {value} does not fit"));
            }
            bytes.extend_from_slice(&low[..size]);
        }
    }
    Ok(bytes)
}

fn scalar(ty: Type, value: &RawValue, sizes: &Sizes) -> Result<Vec<u8>, String> {
    let integer = match value {
        RawValue::Integer(value) => i128::from(*value),
        RawValue::Text(text) => i128::from(Expr::Text(text.clone()).value(sizes)?),
        RawValue::Float(value) if ty.is_float() => return Ok(float_bytes(ty, *value)),
        RawValue::Float(value) => return Err(format!("{value} is no whole number")),
    };
    if ty.is_float() {
        return Ok(float_bytes(ty, integer as f64));
    }
    let bits = 8 * ty.size() as u32;
    let signed = matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64);
    let range = if signed { -(1i128 << (bits - 1))..1i128 << (bits - 1) } else { 0..1i128 << bits };
    if !range.contains(&integer) {
        return Err(format!("{integer} does not fit into {ty:?}"));
    }
    Ok(integer.to_le_bytes()[..ty.size() as usize].to_vec())
}

/// A floating-point value in this type, little-endian.
pub(crate) fn float_bytes(ty: Type, value: f64) -> Vec<u8> {
    match ty {
        Type::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        Type::Bf16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        Type::F64 => value.to_le_bytes().to_vec(),
        _ => (value as f32).to_le_bytes().to_vec(),
    }
}
