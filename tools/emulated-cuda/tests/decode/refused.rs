//! Instructions that do not exist, do not exist on sm_80, or that this machine does not have: each is an error at load.

use cuda::machine::{LoadError, op::NONE};

use super::{FIRST, kernel, load, module};

/// Instructions, and what the error says.
const REFUSED: &str = "\
ld.global.L2::evict_first.u32 %r1, [%rd1]; => .L2::evict_first (sm_100) is not supported
ld.volatile.ca.global.u32 %r1, [%rd1]; => a volatile access has no cache operator
ld.volatile.global.ca.u32 %r1, [%rd1]; => a volatile access has no cache operator
ld.volatile.global.L1::evict_last.u32 %r1, [%rd1]; => a volatile access has no eviction priority
ld.f16 %rs1, [%rd1]; => F16 is no type of a load or store
ld.u32 %rs1, [%rd1]; => a register of 2 bytes for U32
ld.global.u32 %r1, [c]; => c lies in Const memory, not in Global
ld.global.u32 %r1, [s]; => s lies in Shared memory, not in Global
ld.mmio.sys.global.u32 %r1, [%rd1]; => a weak access has no scope
ld.acquire.global.u32 %r1, [%rd1]; => .acquire needs a scope
ld.acquire.gpu.local.u32 %r1, [%rd1]; => .acquire is for global and shared memory
ld.global.v2.u32 {%r1,%rd2}, [%rd1]; => the registers of a vector differ in size
ld.global.u32 _, [%rd1]; => its result cannot be discarded
ld.nc.u32 %r1, [%rd1]; => .nc is for global memory
st.global.u32 [%rd1], 1.0; => a float literal where U32 is wanted
st.global.u32 [%rd1], 0f3F800000; => a float literal where U32 is wanted
st.global.f32 [%rd1], 1; => an integer literal where F32 is wanted
st.global.u32 [%rd1], %tid.x; => special register %tid is read by mov and cvt only
st.param.u32 [p0], %r1; => the parameters of a kernel cannot be written
st.const.u32 [c], %r1; => constants cannot be written
st.global.L2::128B.u32 [%rd1], %r1; => modifier .L2::128B is not known here
ldu.shared.u32 %r1, [%rd1]; => ldu is for global memory
ld.global.u32 %r1, [%r2]; => a global or generic address has 64 bits
atom.global.add.s64 %rd1, [%rd2], %rd3; => Add does not exist for S64
atom.exch.u32 %r1, [%rd2], %r3; => Exch does not exist for U32
atom.cas.u32 %r1, [%rd2], %r3, %r4; => Cas does not exist for U32
atom.exch.f32 %f1, [%rd2], %f3; => Exch does not exist for F32
atom.add.ftz.f32 %f1, [%rd2], %f3; => modifier .ftz is not known here
atom.add.f16x2 %r1, [%rd2], %r3; => .noftz belongs to the 16-bit floats, and to them only
atom.add.noftz.bf16x2 %r1, [%rd2], %r3; => an atomic on bf16 needs sm_90, the module is for sm_80
atom.add.noftz.bf16 %rs1, [%rd2], %rs3; => an atomic on bf16 needs sm_90, the module is for sm_80
atom.min.f32 %f1, [%rd2], %f3; => Min does not exist for F32
atom.and.u32 %r1, [%rd2], %r3; => And does not exist for U32
atom.inc.s32 %r1, [%rd2], %r3; => Inc does not exist for S32
atom.add.u16 %rs1, [%rd2], %rs3; => Add does not exist for U16
atom.local.add.u32 %r1, [%rd2], %r3; => atomics are for global and shared memory
atom.volatile.global.add.u32 %r1, [%rd2], %r3; => modifier .volatile is not known here
red.acquire.gpu.global.add.u32 [%rd2], %r3; => modifier .acquire is not known here
red.acq_rel.gpu.global.add.u32 [%rd2], %r3; => modifier .acq_rel is not known here
red.exch.b32 [%rd2], %r3; => Exch needs a destination
isspacep.const %p1, %rd1; => isspacep.const is not supported
isspacep.shared::cluster %p1, %rd1; => clusters (.shared::cluster, sm_90) are not supported
cvta.shared.u32 %r1, %r2; => addresses have 64 bits
cvta.to.shared.u32 %r1, %r2; => addresses have 64 bits
cvta.to.global.u64 %rd1, g; => a variable has no generic address to convert
cvta.shared.u64 %rd1, g; => g lies in Global memory, not in Shared
cvta.u64 %rd1, %rd2; => a state space is missing
prefetch.shared.L2 [%rd1]; => Shared memory has no prefetch
prefetchu.L2 [%rd1]; => modifier .L2 is not known here
discard.global.L2 [%rd1], 64; => its size must be 128
cp.async.cg.shared.global [%r1], [%rd1], 8; => cp.async.cg copies 16 bytes
cp.async.cg.shared.global [%r1], [%rd1], 16, 17; => more bytes are read than copied
cp.async.wait_group %r1; => the number of groups is a constant, not negative
shfl.sync.down.u32 %r1, %r2, 1, 31, -1; => modifier .u32 is not known here, .b32 is wanted
shfl.down.b32 %r1, %r2, 1, 31; => shfl without .sync does not exist from sm_70 on
shfl.sync.idx.b32 _|%p1, %r1, 1, 31, -1; => its result cannot be discarded
vote.any.pred %p2, %p1; => vote without .sync does not exist from sm_70 on
match.any.sync.b32 %r1|%p1, %r2, -1; => match.any has no predicate
match.any.sync.f32 %r1, %f2, -1; => F32 is not matched, only b32 and b64
activemask.u32 %r1; => modifier .u32 is not known here, .b32 is wanted
redux.sync.and.u32 %r1, %r2, -1; => reduction .and.u32 does not exist on sm_80
redux.sync.min.b32 %r1, %r2, -1; => reduction .min.b32 does not exist on sm_80
redux.sync.min.f32 %f1, %f2, -1; => reduction .min.f32 does not exist on sm_80
ldmatrix.sync.aligned.m8n8.x1.b16 %r1, [%rd5]; => a vector of 1 is wanted
ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1,%r2,%r3}, [%r5]; => there are 1, 2 or 4 matrices
ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1,%r2,%r3}, [%r5]; => a vector of 2 is wanted
ldmatrix.sync.aligned.m8n8.x2.shared.b8 {%r1,%r2}, [%r5]; => modifier .b8 is not known here, .b16 is wanted
ldmatrix.sync.aligned.m8n8.x2.global.b16 {%r1,%r2}, [%rd5]; => matrices lie in shared memory
ldmatrix.sync.m8n8.x2.shared.b16 {%r1,%r2}, [%r5]; => modifier .m8n8 is not known here, .aligned is wanted
stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r5], {%r1,%r2}; => stmatrix needs sm_90, the module is for sm_80
movmatrix.sync.aligned.m8n8.b16 %r1, %r2; => modifier .b16 is not known here, .trans is wanted
mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r1,%r2}, %r3, %r4, {%r5,%r6}; => a is a vector of 1
elect.sync %r1|%p1, -1; => instructions of sm_90 are not supported
bar.sync 0, 65; => the number of threads is a multiple of 32
bar.sync 16; => a block has 16 barriers, from 0
bar.sync -1; => a block has 16 barriers, from 0
bar.arrive 1; => it takes 2 operands, here are 1
bar.red.and.u32 %r2, 0, %p1; => modifier .u32 is not known here, .pred is wanted
bar.red.xor.pred %p2, 0, %p1; => the reduction is .popc, .and or .or
barrier.cluster.arrive; => barriers of clusters (sm_90) are not supported
bar.sync; => it takes 1 to 2 operands, here are 0
membar.gpu; => the level is .cta, .gl or .sys
membar; => the level is .cta, .gl or .sys
fence.acq_rel; => a scope is missing
fence.acq_rel.cluster; => clusters (scope .cluster, sm_90) are not supported
fence.proxy.async; => the asynchronous proxy (sm_90) is not supported
fence.proxy.async.shared::cta; => the asynchronous proxy (sm_90) is not supported
mbarrier.arrive.shared.b64 %rd1, [%r1], 2; => a count without .noComplete needs sm_90, the module is for sm_80
mbarrier.arrive.noComplete.shared.b64 %rd1, [%r1]; => .noComplete needs a count
mbarrier.arrive.relaxed.cta.shared::cta.b64 %rd1, [%r1]; => relaxed mbarrier operations (sm_90) are not supported
mbarrier.arrive.expect_tx.shared.b64 %rd1, [%r1], 2; => bulk copies (sm_90) are not supported
mbarrier.test_wait.shared.parity.b64 %p1, [%r1], %r2; => modifier .parity is not known here, .b64 is wanted
mbarrier.test_wait.shared.b64 %r1, [%r1], %rd1; => register %r1 has the wrong size: Word where Pred is needed
mbarrier.try_wait.shared.b64 %p1, [%r1], %rd1; => mbarrier.try_wait needs sm_90, the module is for sm_80
mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], %r2, %r3; => mbarrier.try_wait needs sm_90, the module is for sm_80
mbarrier.pending_count.shared.b64 %r1, %rd1; => modifier .shared is not known here, .b64 is wanted
mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 4; => bulk copies (sm_90) are not supported
testp.normal.f16 %p1, %rs1; => F16 is not tested, only f32 and f64
testp.zero.f32 %p1, %f1; => the property is not known
pmevent 16; => its operand is a constant below 16
pmevent.mask 0x1ffff; => its operand is a constant below 65536
lop3.or.b32 %r1|%p1, %r1, %r2, %r3, 0x3f, %p2; => lop3 with a predicate as its second result is not supported
lop3.b32 %r1, %r1, %r2, %r3, %r4; => the table of lop3 is a constant below 256
add.u32 %r1, %r2, 0f3F800000; => a float literal where U32 is wanted
add.s32 %r1, %rs2, 1; => a register of 16 bits is too narrow
add.f32 %f1, %f2, 1; => an integer literal where F32 is wanted
mov.u32 %r1, 1.0; => a float literal where U32 is wanted
mov.b32 %r1, 1.0; => a float literal where B32 is wanted
mov.f32 %f1, 1; => an integer literal where F32 is wanted
mov.u32 %r1, g; => a global address has 64 bits
mov.u64 %rd1, k; => the address of function k: indirect calls are not supported
mov.u32 {%rs1,%rs2}, %r1; => vectors are moved as b32 or b64, not as U32
mov.u64 %rd1, {%r1,%r2}; => vectors are moved as b32 or b64, not as U64
mov.u32 %r1, %clock64; => special register %clock64 has another size
mov.u64 %rd1, %tid.x; => special register %tid has another size
add.u32 %r1, %tid.x, 1; => special register %tid is read by mov and cvt only
setp.eq.u32 %p1, %tid.x, 1; => special register %tid is read by mov and cvt only
selp.f16 %rs1, %rs2, %rs3, %p1; => selp.f16 does not exist
setp.lt.ftz.f16 %p1, %rs1, %rs2; => .ftz for F16 is not supported
setp.lt.ftz.f16x2 %p1|%p2, %r1, %r2; => .ftz for pairs is not supported
setp.lt.ftz.bf16 %p1, %rs1, %rs2; => setp needs sm_90, the module is for sm_80
setp.lo.f32 %p1, %f1, %f2; => comparison .lo does not exist for F32
setp.lt.b32 %p1, %r1, %r2; => comparison .lt does not exist for B32
setp.lo.s32 %p1, %r1, %r2; => comparison .lo does not exist for S32
setp.lo.b32 %p1, %r1, %r2; => comparison .lo does not exist for B32
setp.eq.f32 %p1, %f1, 1; => an integer literal where F32 is wanted
setp.eq.s32 %p1, %r1, 1.0; => a float literal where S32 is wanted
set.eq.f32.f16 %f1, %rs1, %rs2; => a comparison of F16 does not give F32
set.eq.bf16.bf16 %rs1, %rs1, %rs2; => set needs sm_90, the module is for sm_80
set.eq.u32.bf16 %r1, %rs1, %rs2; => set needs sm_90, the module is for sm_80
set.eq.bf16x2.bf16x2 %r1, %r1, %r2; => set needs sm_90, the module is for sm_80
set.eq.u16.u32 %rs1, %r1, %r2; => a comparison does not give U16
tex.1d.v4.f32.s32 {%f1,%f2,%f3,%f4}, [%rd1, {%r1}]; => is not supported
wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8}, [%rd1]; => wmma hides how its fragments lie in registers and is not supported: use mma with ldmatrix
alloca.u64 %rd1, 16; => local memory whose size is not constant is not supported
stacksave.u64 %rd1; => local memory whose size is not constant is not supported
mad.wide.cc.u32 %rd1, %r1, %r2, %rd2; => is not supported
add.sat.f64 %fd1, %fd2, %fd3; => is not supported
mad.f32 %f1, %f2, %f3, %f1; => is not supported
div.f32 %f1, %f2, %f3; => is not supported
wgmma.fence.sync.aligned; => matrix instructions of warp groups (sm_90a) are not supported
wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, %rd1, %rd2, 1, 1, 1, 0, 0; => matrix instructions of warp groups (sm_90a) are not supported
tcgen05.fence::before_thread_sync; => matrix instructions of the fifth generation (sm_100) are not supported
mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r5,%r6}, {%f1,%f2,%f3,%f4}, %r7, 0x0; => sparse matrices (mma.sp) are not supported
setmaxnreg.inc.sync.aligned.u32 40; => instructions of sm_90 are not supported
griddepcontrol.wait; => instructions of sm_90 are not supported
mapa.shared::cluster.u32 %r1, %r2, 0; => clusters (sm_90) are not supported
getctarank.u32 %r1, %rd1; => clusters (sm_90) are not supported
multimem.red.relaxed.sys.global.add.u32 [%rd1], %r1; => multicast and tensor maps (sm_90) are not supported
cp.async.bulk.commit_group; => bulk copies (sm_90) are not supported
cp.async.bulk.wait_group 0; => bulk copies (sm_90) are not supported
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2]; => bulk copies (sm_90) are not supported
cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r1], 16; => bulk copies (sm_90) are not supported
st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r2, [%r3]; => bulk and remote copies (sm_90) are not supported
red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3]; => remote reductions (sm_90) are not supported
ld.shared::cluster.u32 %r1, [%r2]; => clusters (.shared::cluster, sm_90) are not supported
ld.global.v8.f32 {%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}, [%rd1]; => vectors of 8 (sm_100) are not supported
ld.global.v4.u64 {%rd1,%rd2,%rd3,%rd4}, [%rd1]; => 32 bytes at once (sm_100) are not supported
atom.global.v2.f32.add {%f1,%f2}, [%rd1], {%f3,%f4}; => vector atomics (sm_90) are not supported
atom.global.add.v2.f32 {%f1,%f2}, [%rd1], {%f3,%f4}; => vector atomics (sm_90) are not supported
fence.mbarrier_init.release.cluster; => clusters (sm_90) are not supported
vadd.u32.u32.u32 %r1, %r2, %r3; => video instructions are not supported
vadd4.u32.u32.u32 %r1, %r2, %r3, %r4; => video instructions are not supported
tld4.r.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, %rd1; => textures and surfaces are not supported
suq.width.b32 %r1, [%rd1]; => textures and surfaces are not supported
txq.width.b32 %r1, [%rd1]; => textures and surfaces are not supported
stackrestore.u64 %rd1; => local memory whose size is not constant is not supported
frobnicate.u32 %r1, %r2; => is not supported
add.u33 %r1, %r2, %r3; => is not supported
add.wrapping.u32 %r1, %r2, %r3; => is not supported
mul.u32 %r1, %r2, %r3; => is not supported
shl.u32 %r1, %r2, 1; => is not supported
mov.b128 %r1, %r2; => operands of 128 bits are not supported
mov.pred.ftz %p1, %p2; => mov takes one type
bra.divergent L; L: => unknown modifier
ret.now; => unknown modifier
exit.all; => unknown modifier
trap.now; => is not supported
nanosleep.u64 %rd1; => is not supported
prmt.b32.xyz %r1, %r2, %r3, %r4; => is not supported
cvt.f32 %f1, %f2; => cvt takes two types
cvt.rn.f33.f32 %f1, %f2; => cvt does not know the type .f33
add.u32 %r1, %r2; => it takes 3 operands, here are 2
add.u32 %r1, %r2, %r3, %r4; => it takes 3 operands, here are 4
add.u32 %rd1, %r2, %r3; => register %rd1 has the wrong size: Wide where Word is needed
add.u64 %rd1, %r2, %rd3; => register %r2 has the wrong size: Word where Wide is needed
add.u32 5, %r2, %r3; => an integer literal cannot be written to
add.u32 %r1, [%rd1], %r3; => an address where a value is wanted
add.u32 %r1, {%r1,%r2}, %r3; => a vector where a value is wanted
add.bf16x2 %r1, %r2, %r3; => add needs sm_90, the module is for sm_80
min.xorsign.abs.f32 %f1, %f2, %f3; => min needs sm_86, the module is for sm_80
ld.global.ca.cg.u32 %r1, [%rd1]; => a second modifier like .cg
ld.global.shared.u32 %r1, [%rd1]; => a second modifier like .shared
ld.global.u32 %r1, %rd1; => a register where an address is wanted
ld.global.pred %p1, [%rd1]; => Pred is no type of a load or store
ld.global.b128 %rd1, [%rd1]; => accesses of 128-bit registers are not supported
ld.global.u32 %p1, [%rd1]; => a predicate is not loaded or stored
ld.global.u32 %r1, [%p1]; => a predicate is not an address
ld.global.u64 %r1, [%rd1]; => a register of 4 bytes for U64
ld.global.v2.u32 %r1, [%rd1]; => a vector of 2 is wanted
ld.global.v2.u32 {%r1,%r2,%r3,%r4}, [%rd1]; => a vector of 4 where 2 is wanted
ld.global.u32 %r1, [%rd1], %rd2; => it takes 2 operands, here are 3
ld.global.wt.u32 %r1, [%rd1]; => modifier .wt is not known here
st.global.ca.u32 [%rd1], %r1; => modifier .ca is not known here
st.acquire.gpu.global.u32 [%rd1], %r1; => modifier .acquire is not known here
st.global.nc.u32 [%rd1], %r1; => modifier .nc is not known here
st.global.v2.u32 [%rd1], %r1; => a vector of 2 is wanted
bar.sync %p1; => register %p1 has the wrong size: Pred where Word is needed
bar.async 0; => modifier .async is not known here
mbarrier.flip.b64 [%rd1]; => modifier .flip is not known here
cp.async.ca.global.shared [%rd1], [%r1], 4; => it copies from .global to .shared
cp.async.ca.shared.global [%r1], [%rd1], 12; => it copies 4, 8 or 16 bytes
cp.async.xx.shared.global [%r1], [%rd1], 4; => modifier .xx is not known here
isspacep.generic %p1, %rd1; => a state space is missing
mov.u32 %r1, %clusterid.x; => special register %clusterid with component Some('x') is not supported
redux.sync.mul.u32 %r1, %r2, -1; => reduction .mul.u32 does not exist on sm_80
shfl.sync.rot.b32 %r1, %r2, 1, 31, -1; => the mode is .up, .down, .bfly or .idx
vote.sync.most.pred %p1, %p2, -1; => the mode is .all, .any, .uni or .ballot
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}; => d is a vector of 4
mma.sync.aligned.m16n8k17.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}; => shape m16n8k17 does not exist on sm_80 for f32.f16.f16.f32
selp.u32 %r1, %r2, %r3, %r4; => register %r4 has the wrong size: Word where Pred is needed
setp.eq.u32 %r1, %r2, %r3; => register %r1 has the wrong size: Word where Pred is needed
setp.eq.and.u32 %p1, %r2, %r3; => it takes 4 operands, here are 3
setp.eq.u32 %p1, %r2, %r3, %p2; => it takes 3 operands, here are 4
createpolicy.fractional.L2::evict_never.b64 %rd1; => modifiers that are not known here
applypriority.global.L2::evict_last [%rd1], 128; => modifier .L2::evict_last is not known here";

fn table() -> impl Iterator<Item = (&'static str, &'static str)> {
    REFUSED.lines().map(|line| line.split_once(" => ").unwrap())
}

#[test]
fn each_is_refused_with_its_line_and_text() {
    assert!(table().count() > 180);
    for (instruction, why) in table() {
        // Two harmless lines before it, so that the line is not that of the first instruction.
        let text = module("sm_80", &format!("mov.u32 %r9, 1;\nmov.u32 %r10, 2;\n{instruction}"));
        match load(&text) {
            Ok(_) => panic!("{instruction} was taken"),
            Err(LoadError::Unsupported { line, message, text }) => {
                assert_eq!(line, FIRST + 2, "{instruction}");
                assert_eq!(text, instruction);
                assert!(message.contains(why), "{instruction}: {message:?} does not say {why:?}");
            }
            // What the parser cannot read is its own to refuse.
            Err(LoadError::Parse(e)) => assert_eq!((e.line, e.text.trim()), (FIRST + 2, instruction), "{e}"),
            Err(other) => panic!("{instruction}: {other}"),
        }
    }
}

#[test]
fn a_function_that_nobody_calls_is_read_too() {
    let text = module("sm_80", "") + ".func f()\n{\n.reg .b32 %r<3>;\nfrobnicate.b32 %r1, %r2;\nret;\n}\n";
    match load(&text) {
        Err(LoadError::Unsupported { line, message, .. }) => {
            assert!(message.contains("frobnicate.b32 is not supported (in function f)"), "{message}");
            assert_eq!(text.lines().nth(line as usize - 1), Some("frobnicate.b32 %r1, %r2;"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_newer_target_has_is_taken_there_only() {
    for instruction in [
        "atom.global.add.noftz.bf16x2 %r1, [%rd1], %r2;",
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], %r2, %r3;",
        "mbarrier.arrive.shared.b64 %rd1, [%r1], 2;",
        "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r5], {%r1,%r2};",
        "setp.lt.bf16 %p1, %rs1, %rs2;",
    ] {
        let error = load(&module("sm_80", instruction)).unwrap_err().to_string();
        assert!(error.contains("needs sm_90"), "{error}");
        assert!(load(&module("sm_90", instruction)).is_ok(), "{instruction}");
    }
}

#[test]
fn a_guard_must_be_a_predicate() {
    assert!(load(&module("sm_80", "@%r1 mov.u32 %r2, 1;")).is_err());
    let program = &kernel("setp.eq.u32 %p1, %r1, 2;\n@!%p1 mov.u32 %r2, 1;").program;
    assert_eq!((program.code[1].guard, program.code[1].negated), (program.code[0].o[0], true));
    assert_eq!((program.code[0].guard, program.code[0].negated), (NONE, false));
}
