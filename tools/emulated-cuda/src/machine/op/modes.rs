//! What instructions are told beside their operands: places, shapes, orders, types, operations.

/// A place that an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The address says.
    Generic,
    /// Global memory, constants included.
    Global,
    /// Shared memory, from 0.
    Shared,
    /// Local memory, from 0.
    Local,
    /// Kernel parameters, from 0.
    Param,
}

/// `[register + offset]`: the register is a source operand, [`super::NONE`] where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub window: Window,
    /// Whether the register has 64 bits.
    pub wide: bool,
    /// Added to it.
    pub offset: i32,
}

/// Shape of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Elements: 1, 2 or 4.
    pub count: u8,
    /// Bytes of one.
    pub bytes: u8,
    /// Whether a loaded element is extended by its sign.
    pub signed: bool,
    /// Whether the registers have 64 bits.
    pub wide: bool,
    /// Whether other threads may change the bytes meanwhile (volatile, relaxed, acquire, release), and which.
    pub strong: Option<Scope>,
}

/// The threads that a strong access or a fence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the block.
    Block,
    /// Those of the device and of the host.
    Device,
}

/// What an access orders beside its own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing: weak, volatile and relaxed accesses.
    None,
    /// What follows it in the thread comes after it.
    Acquire,
    /// What precedes it in the thread comes before it.
    Release,
    /// Both.
    AcqRel,
}

/// What an atomic does with the old value and its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomicKind {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// Type of an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomicType {
    U16,
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Unordered or the comparison.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Both are numbers.
    Num,
    /// One is not.
    Nan,
}

/// What a comparison compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CompareType {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    /// f32 with subnormals as zeros.
    F32Ftz,
    F64,
}

/// What combines the result of `setp` with its third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// Logic on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PredOp {
    Mov,
    Not,
    And,
    Or,
    Xor,
}

/// Instructions with directed rounding, saturation or both, which run lane by lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DirectedOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
}

/// `shfl` modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShuffleMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// `vote` modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// `redux` operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ReduxOp {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// `bar.red` operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BarRed {
    Popc,
    And,
    Or,
}

/// What `bar` does beside arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Waits.
    Sync,
    /// Does not wait.
    Arrive,
    /// Waits and reduces a predicate.
    Red(BarRed),
}

/// `mbarrier` operations. `[address]` is the first source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierKind {
    /// `init [a], count`
    Init,
    /// `inval [a]`
    Inval,
    /// `arrive state, [a]{, count}`, `.noComplete`, `arrive_drop`
    Arrive {
        /// Whether the count of the next phases shrinks too.
        drop: bool,
        /// Whether the phase must not complete by it.
        no_complete: bool,
    },
    /// `test_wait p, [a], state` or with a parity; `try_wait` likewise.
    Test {
        /// Whether the operand is a parity.
        parity: bool,
        /// Whether the warp should let others run when it is not complete.
        try_wait: bool,
    },
    /// `pending_count n, state`: the first source is [`super::NONE`], no memory is touched.
    PendingCount,
}

/// `testp` properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FloatProperty {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicShared,
    TotalShared,
    /// 0 for ever: `%envreg`, `%pm`, reserved shared memory.
    Zero,
}
