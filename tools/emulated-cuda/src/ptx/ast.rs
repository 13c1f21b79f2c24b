//! The syntax tree of a PTX module, with every name resolved: registers, variables and labels are indices.

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// The first name of `.target`, as in `sm_80`.
    pub target: String,
    /// `.file` entries: index and path.
    pub files: Vec<(u32, String)>,
    /// Every variable of the module and of its functions, in order of declaration.
    pub variables: Vec<Variable>,
    /// Every function, with or without a body; one entry a name (a declaration merges with its definition).
    pub functions: Vec<Function>,
}

/// Index into [`Module::variables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableId(pub u32);

/// Index into [`Module::functions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// Index into [`Body::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegisterId(pub u32);

/// Index into [`Body::labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

/// A state space that can hold a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`, of a kernel, a function or a call sequence
    Param,
}

/// A fundamental or packed type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Type {
    /// A type by its name without the dot, as in `f32`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }

    /// Size in bytes; a predicate counts as one.
    pub fn size(self) -> u32 {
        match self {
            Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F16x2 | Type::Bf16x2 | Type::F32 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }
}

/// `.extern`, `.visible`, `.weak`, `.common`, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Linkage {
    #[default]
    Internal,
    Extern,
    Visible,
    Weak,
    Common,
}

/// A variable in memory.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name as written.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes: as declared, else that of the type (times the vector width).
    pub align: u32,
    /// Size in bytes, arrays and vectors included; 0 for an unsized `.extern .shared x[]`.
    pub size: u64,
    /// Initial bytes, at most `size` of them (the rest is zero); empty where there is no initialiser.
    pub init: Vec<u8>,
    /// Places inside `init` that hold an address, to be filled at load.
    pub relocations: Vec<Relocation>,
    /// Its linkage.
    pub linkage: Linkage,
    /// Line of the declaration, from 1.
    pub line: u32,
}

/// An address inside an initialiser: `generic(symbol) + addend` or `symbol + addend`.
#[derive(Clone, Debug)]
pub struct Relocation {
    /// Byte offset inside the initialiser.
    pub offset: u64,
    /// Bytes that the address takes, 4 or 8.
    pub size: u32,
    /// What it is the address of.
    pub symbol: Symbol,
    /// Bytes to add to it.
    pub addend: i64,
    /// Whether the address is wanted in the generic window.
    pub generic: bool,
}

/// A named thing that has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// A variable.
    Variable(VariableId),
    /// A function, whose address only an indirect call can use.
    Function(FunctionId),
}

/// A kernel (`.entry`) or a device function (`.func`).
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it is an `.entry`.
    pub is_entry: bool,
    /// Its linkage.
    pub linkage: Linkage,
    /// Return parameters (`.func (.param .b32 retval) f`), none for a kernel. In [`Space::Param`].
    pub returns: Vec<Formal>,
    /// Parameters in order.
    pub params: Vec<Formal>,
    /// `.maxntid`, missing dimensions 1.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`, missing dimensions 1.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub min_blocks: Option<u32>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// `.noreturn`
    pub no_return: bool,
    /// Its body; none for a declaration (vprintf, __assertfail, malloc, free).
    pub body: Option<Body>,
    /// Line of its header, from 1.
    pub line: u32,
}

/// A formal parameter: memory in the param space, or a register (allowed in a `.func` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formal {
    /// `.param .b32 x`
    Variable(VariableId),
    /// `.reg .b32 x`, an index into the registers of the body (or of nothing, for a declaration).
    Register(RegisterId),
}

/// The body of a function, its nested scopes flattened.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Registers of every scope; a vector register is as many as it has components (`v.x`, `v.y`).
    pub registers: Vec<Register>,
    /// Labels of every scope: name and the index into `instructions` of what follows, their number at the end.
    pub labels: Vec<(String, u32)>,
    /// Variables declared inside (local, shared, const, global or the params of call sequences).
    pub variables: Vec<VariableId>,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
    /// `.branchtargets` lists, in order of declaration.
    pub branch_targets: Vec<Vec<LabelId>>,
}

/// A register.
#[derive(Clone, Debug)]
pub struct Register {
    /// Its name as written, `%r12`.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

/// `@p` or `@!p`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub register: RegisterId,
    /// Whether the instruction runs where it is false.
    pub negated: bool,
}

/// Where an instruction comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Index of the source file (`.loc`), 0 for none.
    pub file: u32,
    /// Line in that file.
    pub source_line: u32,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Its place.
    pub location: Location,
    /// Its guard.
    pub guard: Option<Guard>,
    /// The opcode up to the first dot: `ld`, `mma`, `cp`.
    pub opcode: String,
    /// What follows, split at the dots and without them: `global`, `v4`, `u32`; `L1::evict_last` is one.
    pub modifiers: Vec<String>,
    /// The operands in order.
    pub operands: Vec<Operand>,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Register(RegisterId),
    /// `!p`
    NotRegister(RegisterId),
    /// A special register and its component: (`%tid`, Some('x')), (`%laneid`, None). `WARP_SZ` is an integer.
    Special(String, Option<char>),
    /// An integer constant, as 64 bits (two's complement).
    Integer(i64),
    /// `0f3F800000`, its bits.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal floating-point literal, its bits.
    F64(u64),
    /// The address of a symbol plus an offset, outside brackets: `mov.u64 %rd1, x+4;`.
    Symbol(Symbol, i64),
    /// `[base + offset]`
    Address(Base, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `a|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
    /// A branch target.
    Label(LabelId),
    /// A `.branchtargets` list, by index.
    BranchTargets(u32),
    /// The callee of a direct `call`.
    Function(FunctionId),
    /// `(a, b)`: return values or arguments of a `call`.
    List(Vec<Operand>),
    /// The prototype label of an indirect call; kept so that it can be refused by name.
    Prototype(String),
}

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A register.
    Register(RegisterId),
    /// A variable or function.
    Symbol(Symbol),
    /// Nothing: `[16]`.
    Absolute,
}
