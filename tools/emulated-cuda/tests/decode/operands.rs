//! Where operands lie in an instruction, and what its modifiers become.

use cuda::machine::{
    counters::Class,
    op::{
        Address, AtomicKind, AtomicType, BarKind, BarRed, BoolOp, CONSTANT, Compare, CompareType,
        FloatProperty, MbarrierKind, NONE, Op, Order, ReduxOp, Scope, Shape, ShuffleMode, Special, VoteMode,
        Window,
    },
    program::Program,
};

use super::{device, kernel, module, named};

/// The value of a constant operand.
fn constant(program: &Program, slot: u16, wide: bool) -> u64 {
    assert!(slot & CONSTANT != 0 && slot != NONE, "{slot:#x} is no constant");
    let at = (slot & !CONSTANT) as usize;
    // 32 values of 64 bits fill two rows, each value two words.
    let words: Vec<u32> = program.constants[at..].iter().take(2).flat_map(|line| line.0).collect();
    let value = |lane: usize| match wide {
        true => u64::from(words[2 * lane]) | u64::from(words[2 * lane + 1]) << 32,
        false => u64::from(words[lane]),
    };
    assert!((1..32).all(|lane| value(lane) == value(0)));
    value(0)
}

fn address(window: Window, wide: bool, offset: i32) -> Address {
    Address { window, wide, offset }
}

fn register(slot: u16) -> bool {
    slot & CONSTANT == 0
}

#[test]
fn constants_are_rows_that_all_lanes_share() {
    let program = &kernel(
        "add.u32 %r1, %r1, -3;\nadd.u64 %rd1, %rd1, -3;\nadd.f64 %fd1, %fd1, 0f3FC00000;\nadd.f32 %f1, %f1, 1.5;\n\
         mov.b16 %rs1, -1;",
    )
    .program;
    assert_eq!(constant(program, program.code[0].o[2], false), 0xffff_fffd);
    assert_eq!(constant(program, program.code[1].o[2], true), -3i64 as u64);
    assert_eq!(constant(program, program.code[2].o[2], true), 1.5f64.to_bits());
    assert_eq!(constant(program, program.code[3].o[2], false), u64::from(1.5f32.to_bits()));
    assert_eq!(constant(program, program.code[4].o[1], false), 0xffff);
}

#[test]
fn loads() {
    let cases: &[(&str, Address, Shape, Order)] = &[
        (
            "ld.global.nc.L1::no_allocate.L2::128B.v4.f32 {%f1,%f2,%f3,%f4}, [%rd1+16];",
            address(Window::Global, true, 16),
            Shape { count: 4, bytes: 4, signed: false, wide: false, strong: None },
            Order::None,
        ),
        (
            "ld.shared.s8 %rd2, [%r1+-4];",
            address(Window::Shared, false, -4),
            Shape { count: 1, bytes: 1, signed: true, wide: true, strong: None },
            Order::None,
        ),
        (
            "ld.volatile.b16 %r1, [%rd1];",
            address(Window::Generic, true, 0),
            Shape { count: 1, bytes: 2, signed: false, wide: false, strong: Some(Scope::Device) },
            Order::None,
        ),
        (
            "ld.acquire.gpu.global.v2.b64 {%rd2,%rd3}, [%rd1];",
            address(Window::Global, true, 0),
            Shape { count: 2, bytes: 8, signed: false, wide: true, strong: Some(Scope::Device) },
            Order::Acquire,
        ),
        (
            "ld.relaxed.sys.global.s32 %rd2, [%rd1];",
            address(Window::Global, true, 0),
            Shape { count: 1, bytes: 4, signed: true, wide: true, strong: Some(Scope::Device) },
            Order::None,
        ),
        (
            "ld.weak.local.u64 %rd2, [%rd1];",
            address(Window::Local, true, 0),
            Shape { count: 1, bytes: 8, signed: false, wide: true, strong: None },
            Order::None,
        ),
    ];
    for (text, address, shape, order) in cases {
        let program = &kernel(text).program;
        match program.code[0].op {
            Op::Load(a, s, o) => assert_eq!((&a, &s, &o), (address, shape, order), "{text}"),
            other => panic!("{other:?}"),
        }
        let count = shape.count as usize;
        assert!(program.code[0].o[..count + 1].iter().all(|&slot| register(slot)), "{text}");
        assert!(program.code[0].o[count + 1..].iter().all(|&slot| slot == NONE), "{text}");
    }
}

#[test]
fn stores() {
    let program =
        &kernel("st.release.cta.shared.v2.u16 [s+8], {%rs1, 7};\nst.global.u8 [%rd1], %rd2;").program;
    let shape = Shape { count: 2, bytes: 2, signed: false, wide: false, strong: Some(Scope::Block) };
    match program.code[0].op {
        Op::Store(a, s, Order::Release) => assert_eq!((a, s), (address(Window::Shared, false, 8), shape)),
        other => panic!("{other:?}"),
    }
    let o = &program.code[0].o;
    assert!(o[0] == NONE && register(o[1]));
    assert_eq!(constant(program, o[2], false), 7);
    assert!(matches!(program.code[1].op, Op::Store(_, Shape { bytes: 1, wide: true, .. }, Order::None)));
}

#[test]
fn symbols() {
    let text = module(
        "sm_80",
        "ld.global.u32 %r1, [g+4];\nld.const.u32 %r1, [c+8];\nld.u32 %r1, [s+12];\nmov.u64 %rd1, g+4;\nmov.u32 %r2, s+4;\n\
         ld.param.u32 %r1, [p1];\nmov.u64 %rd1, p1;\nld.param.u32 %r1, [%rd1];\ncvta.shared.u64 %rd1, s;\n\
         cvta.to.shared.u64 %rd2, %rd1;",
    );
    let device = device();
    let module = cuda::machine::Module::load(&device, &text).unwrap();
    let program = &module.kernels["k"].program;
    let (g, c) = (module.globals["g"].0, module.globals["c"].0);
    let o = |pc: usize| program.code[pc].o;
    assert_eq!(constant(program, o(0)[1], true), g + 4);
    assert_eq!(constant(program, o(1)[1], true), c + 8);
    assert!(matches!(program.code[1].op, Op::Load(Address { window: Window::Global, .. }, ..)));
    assert_eq!(constant(program, o(2)[1], true), 0x0101_0000_0000_000c);
    assert_eq!(constant(program, o(3)[1], true), g + 4);
    assert_eq!(constant(program, o(4)[1], false), 4);
    assert!(matches!(program.code[5].op, Op::Load(Address { window: Window::Param, offset: 8, .. }, ..)));
    assert_eq!(constant(program, o(6)[1], true), 8);
    assert!(matches!(
        program.code[7].op,
        Op::Load(Address { window: Window::Param, wide: true, offset: 0 }, ..)
    ));
    assert!(matches!(program.code[8].op, Op::Cvta { window: Window::Shared, to: false }));
    assert!(matches!(program.code[9].op, Op::Cvta { window: Window::Shared, to: true }));
}

#[test]
fn atomics() {
    use {AtomicKind as K, AtomicType as T};
    let cases = [
        ("atom.global.add.f32 %f1, [%rd1], %f2;", Window::Global, K::Add, T::F32, Order::None, 1),
        ("atom.add.noftz.f16x2 %r1, [%rd1], %r2;", Window::Generic, K::Add, T::F16x2, Order::None, 1),
        (
            "atom.acquire.cta.shared.cas.b64 %rd1, [%r1], %rd2, %rd3;",
            Window::Shared,
            K::Cas,
            T::U64,
            Order::Acquire,
            2,
        ),
        (
            "atom.acq_rel.gpu.global.exch.b32 %r1, [%rd1], %r2;",
            Window::Global,
            K::Exch,
            T::U32,
            Order::AcqRel,
            1,
        ),
        ("red.release.sys.global.max.s64 [%rd1], %rd2;", Window::Global, K::Max, T::S64, Order::Release, 1),
        ("red.relaxed.gpu.shared.inc.u32 [%r1], 5;", Window::Shared, K::Inc, T::U32, Order::None, 1),
    ];
    for (text, window, kind, ty, order, sources) in cases {
        let inst = kernel(text).program.code[0];
        match inst.op {
            Op::Atomic(a, k, t, o, scope) => {
                assert_eq!((a.window, k, t, o), (window, kind, ty, order), "{text}");
                let block = text.contains(".cta");
                assert_eq!(scope, if block { Scope::Block } else { Scope::Device }, "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(inst.o[0] == NONE, text.starts_with("red"), "{text}");
        assert!(inst.o[1..2 + sources].iter().all(|&slot| slot != NONE), "{text}");
        assert!(inst.o[2 + sources..].iter().all(|&slot| slot == NONE), "{text}");
    }
}

#[test]
fn copies() {
    let program = &kernel(
        "cp.async.ca.shared.global [%r1+4], [%rd1+8], 8;\ncp.async.cg.shared::cta.global [s+16], [%rd1], 16, %r2;\n\
         setp.eq.u32 %p1, %r1, 1;\ncp.async.cg.shared.global.L2::cache_hint [%r1], [%rd1], 16, !%p1, %rd2;\n\
         cp.async.wait_group 2;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r1];",
    )
    .program;
    let shared = |wide, offset| address(Window::Shared, wide, offset);
    let global = |offset| address(Window::Global, true, offset);
    match program.code[0].op {
        Op::CpAsync { bytes: 8, to, from, sized: false, ignore: false } => {
            assert_eq!((to, from), (shared(false, 4), global(8)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(program.code[0].o[2], NONE);
    match program.code[1].op {
        Op::CpAsync { bytes: 16, to, sized: true, ignore: false, .. } => assert_eq!(to, shared(false, 16)),
        other => panic!("{other:?}"),
    }
    assert!(program.code[1].o[0] == NONE && register(program.code[1].o[2]));
    // `!p` goes through a predicate of its own.
    assert!(matches!(program.code[3].op, Op::Pred(cuda::machine::op::PredOp::Not)));
    assert!(matches!(program.code[4].op, Op::CpAsync { sized: false, ignore: true, .. }));
    assert_eq!(program.code[4].o[2], program.code[3].o[0]);
    assert!(matches!(program.code[5].op, Op::CpAsyncWait(2)));
    assert!(matches!(program.code[6].op, Op::CpAsyncArrive { noinc: true, .. }));
}

#[test]
fn warps() {
    let program = &kernel(
        "shfl.sync.bfly.b32 %r1|%p1, %r2, 1, 31, -1;\nshfl.sync.up.b32 %r1, %r2, 1, 0, -1;\n\
         vote.sync.ballot.b32 %r1, !%p1, -1;\nmatch.all.sync.b64 %r1|%p1, %rd1, -1;\nmatch.any.sync.b32 %r1, %r2, -1;\n\
         redux.sync.min.s32 %r1, %r2, -1;\nldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1,%r2,_,%r4}, [%r5+32];\n\
         bar.warp.sync 0xff;",
    )
    .program;
    let code = &program.code;
    assert!(matches!(code[0].op, Op::Shuffle(ShuffleMode::Bfly)));
    assert!(register(code[0].o[1]) && code[1].o[1] == NONE);
    let literals: Vec<u64> = code[0].o[3..6].iter().map(|&slot| constant(program, slot, false)).collect();
    assert_eq!(literals, [1, 31, 0xffff_ffff]);
    assert!(matches!(code[2].op, Op::Vote { mode: VoteMode::Ballot, not: true }));
    assert!(matches!(code[3].op, Op::Match { all: true, wide: true }));
    assert!(register(code[3].o[1]) && code[4].o[1] == NONE);
    assert!(matches!(code[5].op, Op::Redux(ReduxOp::MinS)));
    match code[6].op {
        Op::LdMatrix { count: 4, trans: true, address: a } => {
            assert_eq!(a, address(Window::Shared, false, 32))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        code[6].o[..5].iter().map(|&slot| slot == NONE).collect::<Vec<_>>(),
        [false, false, true, false, false]
    );
    assert!(matches!(code[7].op, Op::WarpSync));
    assert_eq!(constant(program, code[7].o[0], false), 0xff);
}

#[test]
fn fragments_follow_each_other() {
    let program = &kernel(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, \
         {%f5,%f6,0f3F800000,%f8};",
    )
    .program;
    let o = program.code[0].o;
    assert!(matches!(program.code[0].op, Op::Mma(_)));
    assert_eq!(constant(program, o[12], false), u64::from(1f32.to_bits()));
    let mut slots: Vec<u16> = o[..12].iter().chain(&o[13..]).copied().collect();
    assert!(slots.iter().all(|&slot| register(slot)));
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), 13, "every fragment register has a row of its own");
}

#[test]
fn barriers() {
    let program = &kernel(
        "bar.sync 3;\nbarrier.cta.arrive 1, 64;\nbar.red.or.pred %p2, 0, 32, !%p1;\nbarrier.red.popc.aligned.u32 %r1, %r2, %p1;\n\
         membar.gl;\nfence.acq_rel.cta;",
    )
    .program;
    let code = &program.code;
    assert!(matches!(code[0].op, Op::Barrier { kind: BarKind::Sync, aligned: true, not: false }));
    assert_eq!((code[0].o[0], constant(program, code[0].o[1], false), code[0].o[2]), (NONE, 3, NONE));
    assert!(matches!(code[1].op, Op::Barrier { kind: BarKind::Arrive, aligned: false, .. }));
    assert_eq!(constant(program, code[1].o[2], false), 64);
    assert!(matches!(code[2].op, Op::Barrier { kind: BarKind::Red(BarRed::Or), aligned: true, not: true }));
    assert_eq!([1, 2].map(|at| constant(program, code[2].o[at], false)), [0, 32]);
    assert!(register(code[2].o[0]) && register(code[2].o[3]));
    assert!(matches!(
        code[3].op,
        Op::Barrier { kind: BarKind::Red(BarRed::Popc), aligned: true, not: false }
    ));
    assert!(code[3].o[2] == NONE && register(code[3].o[3]));
    assert!(matches!(code[4].op, Op::Fence(Scope::Device)) && matches!(code[5].op, Op::Fence(Scope::Block)));
}

#[test]
fn mbarriers() {
    let program = &kernel(
        "mbarrier.init.shared.b64 [s+8], 4;\nmbarrier.inval.b64 [%rd1];\nmbarrier.arrive.release.cta.shared::cta.b64 %rd2, [%r1];\n\
         mbarrier.arrive_drop.noComplete.shared.b64 _, [%r1], 2;\nmbarrier.test_wait.acquire.cta.shared.b64 %p1, [%r1], %rd2;\n\
         mbarrier.test_wait.parity.shared.b64 %p1, [%r1], 1;\nmbarrier.pending_count.b64 %r1, %rd2;",
    )
    .program;
    let kinds: Vec<MbarrierKind> = program.code[..7]
        .iter()
        .map(|i| match i.op {
            Op::Mbarrier(kind, _) => kind,
            other => panic!("{other:?}"),
        })
        .collect();
    let arrive = |drop, no_complete| MbarrierKind::Arrive { drop, no_complete };
    let test = |parity| MbarrierKind::Test { parity, try_wait: false };
    let expected = [
        MbarrierKind::Init,
        MbarrierKind::Inval,
        arrive(false, false),
        arrive(true, true),
        test(false),
        test(true),
        MbarrierKind::PendingCount,
    ];
    assert_eq!(kinds, expected);
    let o = |pc: usize| &program.code[pc].o;
    assert!(o(0)[..2] == [NONE; 2] && constant(program, o(0)[2], false) == 4);
    assert!(register(o(2)[0]) && register(o(2)[1]) && o(2)[2] == NONE);
    assert!(o(3)[0] == NONE && constant(program, o(3)[2], false) == 2);
    assert_eq!(constant(program, o(5)[2], false), 1);
    assert!(register(o(6)[0]) && o(6)[1] == NONE && register(o(6)[2]));
}

#[test]
fn comparisons() {
    let program = &kernel(
        "setp.ltu.and.ftz.f32 %p1|%p2, %f1, %f2, !%p3;\nset.eq.u32.f16x2 %r1, %r2, %r3;\nset.gt.f32.s32 %f1, %r1, 0;\n\
         testp.subnormal.f64 %p1, %fd1;\nselp.b64 %rd1, %rd2, 5, 1;",
    )
    .program;
    let code = &program.code;
    match code[0].op {
        Op::Setp {
            compare: Compare::Ltu,
            ty: CompareType::F32Ftz,
            combine: Some(BoolOp::And),
            not: true,
        } => {}
        other => panic!("{other:?}"),
    }
    assert!(code[0].o[..5].iter().all(|&slot| register(slot)) && code[0].o[0] != code[0].o[1]);
    assert!(matches!(code[1].op, Op::SetHalves { one: 0xffff, brain: false, .. }));
    assert!(matches!(
        code[2].op,
        Op::Set { compare: Compare::Gt, ty: CompareType::S32, one: 0x3f80_0000, .. }
    ));
    assert!(matches!(code[3].op, Op::Testp { property: FloatProperty::Subnormal, double: true }));
    // A literal predicate is an inverted false one.
    assert!(matches!(code[4].op, Op::Pred(_)));
    assert_eq!(code[4].o[1], CONSTANT);
    assert_eq!(code[5].o[3], code[4].o[0]);
}

#[test]
fn special_registers_are_read_at_once() {
    let program =
        &kernel("mov.u32 %r1, %ctaid.y;\nmov.u64 %rd1, %clock64;\ncvt.u64.u32 %rd2, %tid.z;").program;
    assert!(matches!(program.code[0].op, Op::Special(Special::Ctaid(1))));
    assert!(matches!(program.code[1].op, Op::Special(Special::Clock64)));
    assert!(matches!(program.code[2].op, Op::Special(Special::Tid(2))));
    assert_eq!(program.code[3].o[1], program.code[2].o[0]);
}

#[test]
fn branches_know_where_they_lead() {
    let text = "setp.eq.u32 %p1, 1, 2;\n@%p1 bra A;\nmov.u32 %r1, 1;\nbra.uni B;\nA:\nmov.u32 %r1, 2;\nB:\nmov.u32 %r2, 3;\n\
                @%p1 bra END;\n@%p1 exit;\nbra B;\nEND:\nret;";
    let program = &kernel(text).program;
    let target = |pc: usize| match program.code[pc].op {
        Op::Branch { target, uniform } => (target, uniform),
        other => panic!("{other:?}"),
    };
    assert_eq!(target(1), (4, false));
    assert_eq!(target(3), (5, true));
    assert_eq!(target(6), (9, false));
    assert_eq!(target(8), (5, false));
}

#[test]
fn indexed_branches() {
    let text = "mov.u32 %r1, %tid.x;\nTS: .branchtargets A, B, A;\nbrx.idx %r1, TS;\nA:\nmov.u32 %r2, 1;\nbra C;\nB:\nmov.u32 %r2, 2;\nC:\nret;";
    let program = &kernel(text).program;
    assert!(matches!(program.code[1].op, Op::BranchIndexed { list: 0 }));
    assert_eq!(program.branch_lists, [vec![2, 4, 2]]);
}

#[test]
fn classes() {
    let cases = [
        ("add.u32 %r1, %r2, %r3;", Class::Integer),
        ("add.f32 %f1, %f2, %f3;", Class::Float32),
        ("add.rz.f32 %f1, %f2, %f3;", Class::Float32),
        ("fma.rn.f64 %fd1, %fd2, %fd3, %fd1;", Class::Float64),
        ("add.f16x2 %r1, %r2, %r3;", Class::Half),
        ("ex2.approx.ftz.f32 %f1, %f2;", Class::Special),
        ("sqrt.rz.f64 %fd1, %fd2;", Class::Special),
        ("setp.lt.f64 %p1, %fd1, %fd2;", Class::Float64),
        ("cvt.rn.f32.s32 %f1, %r1;", Class::Convert),
        ("mov.u32 %r1, %tid.x;", Class::Move),
        ("ld.global.u32 %r1, [%rd1];", Class::Global),
        ("ld.shared.u32 %r1, [%r1];", Class::Shared),
        ("ld.param.u32 %r1, [p1];", Class::Local),
        ("red.shared.add.u32 [%r1], 1;", Class::Atomic),
        ("cp.async.ca.shared.global [%r1], [%rd1], 4;", Class::Global),
        ("shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", Class::Warp),
        ("bar.sync 0;", Class::Sync),
        ("bra L; L:", Class::Control),
    ];
    for (text, class) in cases {
        let kernel = named(&module("sm_80", text), "k");
        assert_eq!(kernel.program.classes[0], class, "{text}");
        assert_eq!(kernel.program.classes.len(), kernel.program.code.len());
    }
}
