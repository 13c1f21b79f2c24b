//! Main loops in PTX and in machine code.

use kernel_report::sass::{Code, instruction_ratio, of_disassembly, of_ptx};

/// As nvcc writes it: guards, inline assembly, several statements on a line, braces within operands, source lines.
const PTX: &str = r#"
.version 9.0
.target sm_80
.address_size 64
.visible .entry other(
	.param .u64 other_param_0
)
{
	ret;
}
	// .globl	gemm
.visible .entry gemm(
	.param .u64 gemm_param_0
)
.maxntid 128, 1, 1
{
	.reg .pred 	%p<4>;
	.reg .b32 	%r<9>;
	.loc	1 10 3
	ld.param.u64 	%rd1, [gemm_param_0];
	mov.u32 	%r1, 0;
$L__BB1_1:
	.pragma "nounroll";
	.loc	1 12 5
	ld.global.u32 	%r2, [%rd1];
	setp.eq.s32 	%p1, %r2, 0;
	@%p1 bra 	$L__BB1_1;
$L__BB1_2:
	// begin inline asm
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4, %r5, %r6}, [%r7];
	// end inline asm
	// begin inline asm
	{ .reg .pred q; setp.ne.b32 q, %r1, 0; @q mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r3}, {%r4}, {%f1}; }
	// end inline asm
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2}, {%r5}, {%r6}, {%f2};
	add.s32 	%r1, %r1, 1;
	@!%p2 bra.uni 	$L__BB1_2;
	@%p3 bra 	$L__BB1_3;
	st.global.f32 	[%rd1], %f1;
$L__BB1_3:
	ret;
}
"#;

/// As nvdisasm prints it, the loop unrolled twice.
const MACHINE: &str = r#"
	.target	sm_80
//--------------------- .text.other               --------------------------
	.section	.text.other,"ax",@progbits
.text.other:
        /*0000*/                   EXIT ;
.L_x_9:
        /*0010*/                   BRA `(.L_x_9);
//--------------------- .text.gemm                --------------------------
	.section	.text.gemm,"ax",@progbits
gemm:
.text.gemm:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E R2, [R4.64] ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   LDSM.16.M88.4 R4, [R12] ;
        /*0040*/                   HMMA.16816.F32.BF16 R32, R20.reuse, R16, R32 ;
        /*0050*/                   HMMA.16816.F32.BF16 R36, R20.reuse, R16, R32 ;
        /*0060*/                   LDSM.16.M88.4 R4, [R12] ;
        /*0070*/                   HMMA.16816.F32.BF16 R32, R20.reuse, R16, R32 ;
        /*0080*/                   HMMA.16816.F32.BF16 R36, R20.reuse, R16, R32 ;
        /*0090*/                   ISETP.GE.AND P0, PT, R1, c[0x0][0x164], PT ;
        /*00a0*/              @!P0 BRA `(.L_x_1) ;
        /*00b0*/               @P1 EXIT ;
        /*00c0*/                   STG.E [R4.64], R2 ;
        /*00d0*/                   EXIT ;
.L_x_2:
        /*00e0*/                   BRA `(.L_x_2);
        /*00f0*/                   NOP;
.L_x_3:
"#;

#[test]
fn ptx_is_read() {
    let code = of_ptx(PTX, "gemm").unwrap();
    let first_words: Vec<&str> = code.opcodes.iter().map(|o| o.split('.').next().unwrap()).collect();
    let expected = [
        "ld", "mov", "ld", "setp", "bra", "ldmatrix", "setp", "mma", "mma", "add", "bra", "bra", "st", "ret",
    ];
    assert_eq!(first_words, expected);
    assert_eq!(code.loops, [2..=4, 5..=10]);
    assert_eq!(of_ptx(PTX, "other").unwrap(), Code { opcodes: vec!["ret".to_string()], loops: vec![] });
    assert_eq!(of_ptx(PTX, "gem"), None);
    assert_eq!(of_ptx(&PTX[..PTX.len() - 20], "gemm"), None, "cut off");
}

#[test]
fn machine_code_is_read_without_what_follows_its_end() {
    let code = of_disassembly(MACHINE, "gemm").unwrap();
    assert_eq!(code.opcodes.len(), 14);
    assert_eq!((code.opcodes[3].as_str(), code.opcodes[13].as_str()), ("LDSM.16.M88.4", "EXIT"));
    assert_eq!(code.loops, [1..=2, 3..=10]);
    assert_eq!(of_disassembly(MACHINE, "other").unwrap().opcodes, ["EXIT"]);
    assert_eq!(of_disassembly(MACHINE, "none"), None);
}

#[test]
fn the_ratio_compares_loops_by_their_tensor_operations() {
    let ratio = instruction_ratio(&of_ptx(PTX, "gemm").unwrap(), &of_disassembly(MACHINE, "gemm").unwrap());
    // PTX: 6 instructions for 2 mma. Machine: 8 for 4.
    assert_eq!(ratio, Some((8.0 / 4.0) / (6.0 / 2.0)));
}

#[test]
fn other_work_and_straight_code() {
    let code = |opcodes: &[&str], loops: &[std::ops::RangeInclusive<usize>]| Code {
        opcodes: opcodes.iter().map(|o| o.to_string()).collect(),
        loops: loops.to_vec(),
    };
    // Without a loop, whole kernels: 3 instructions a load against 4.
    let ptx = code(&["mov.u32", "ld.global.f32", "ret"], &[]);
    assert_eq!(instruction_ratio(&ptx, &code(&["MOV", "LDG.E", "IMAD", "EXIT"], &[])), Some(4.0 / 3.0));
    // The inner loop decides, not the loop around it; of the loops with work, the one with the most.
    let nested = code(&["ld.global.f32", "ld.global.f32", "add.s32", "bra", "bra"], &[0..=4, 1..=3]);
    let machine = code(&["LDG.E", "IADD3", "FADD", "FADD", "FADD", "BRA"], &[0..=5]);
    assert_eq!(instruction_ratio(&nested, &machine), Some(6.0 / 3.0));
    // Closing a group of copies is no copy.
    let ptx_of_copies = code(&["cp.async.cg.shared.global", "cp.async.commit_group", "bra"], &[0..=2]);
    let copies = code(&["LDGSTS.E.BYPASS.128", "LDGDEPBAR", "BRA"], &[0..=2]);
    assert_eq!(instruction_ratio(&ptx_of_copies, &copies), Some(1.0));
    // Nothing in common.
    assert_eq!(instruction_ratio(&ptx, &code(&["EXIT"], &[])), None);
    assert_eq!(instruction_ratio(&code(&[], &[]), &code(&[], &[])), None);
}
