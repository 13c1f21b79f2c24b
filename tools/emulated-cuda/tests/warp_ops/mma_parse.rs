//! Which `mma` there are, their registers and their names.

use cuda::arith::mma::Mma;

use super::layout::parse;

#[test]
fn registers_are_those_of_the_isa() {
    // Modifiers; registers of D, A, B, C; name; multiply-adds.
    let table = [
        ("m16n8k8.row.col.f32.f16.f16.f32", [4, 2, 1, 4], "m16n8k8.f16", 1024),
        ("m16n8k16.row.col.f32.f16.f16.f32", [4, 4, 2, 4], "m16n8k16.f16", 2048),
        ("m16n8k8.row.col.f16.f16.f16.f16", [2, 2, 1, 2], "m16n8k8.f16acc", 1024),
        ("m16n8k16.row.col.f16.f16.f16.f16", [2, 4, 2, 2], "m16n8k16.f16acc", 2048),
        ("m16n8k8.row.col.f32.bf16.bf16.f32", [4, 2, 1, 4], "m16n8k8.bf16", 1024),
        ("m16n8k16.row.col.f32.bf16.bf16.f32", [4, 4, 2, 4], "m16n8k16.bf16", 2048),
        ("m16n8k4.row.col.f32.tf32.tf32.f32", [4, 2, 1, 4], "m16n8k4.tf32", 512),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", [4, 4, 2, 4], "m16n8k8.tf32", 1024),
        ("m8n8k4.row.col.f64.f64.f64.f64", [2, 1, 1, 2], "m8n8k4.f64", 256),
        ("m8n8k16.row.col.s32.u8.s8.s32", [2, 1, 1, 2], "m8n8k16.int8", 1024),
        ("m16n8k16.row.col.s32.s8.u8.s32", [4, 2, 1, 4], "m16n8k16.int8", 2048),
        ("m16n8k32.row.col.satfinite.s32.s8.s8.s32", [4, 4, 2, 4], "m16n8k32.int8", 4096),
        ("m8n8k32.row.col.s32.u4.u4.s32", [2, 1, 1, 2], "m8n8k32.int4", 2048),
        ("m16n8k32.row.col.s32.s4.u4.s32", [4, 2, 1, 4], "m16n8k32.int4", 4096),
        ("m16n8k64.row.col.s32.u4.s4.s32", [4, 4, 2, 4], "m16n8k64.int4", 8192),
        ("m8n8k128.row.col.s32.b1.b1.s32.xor.popc", [2, 1, 1, 2], "m8n8k128.b1", 8192),
        ("m16n8k128.row.col.s32.b1.b1.s32.and.popc", [4, 2, 1, 4], "m16n8k128.b1", 16384),
        ("m16n8k256.row.col.s32.b1.b1.s32.xor.popc", [4, 4, 2, 4], "m16n8k256.b1", 32768),
    ];
    for (text, registers, name, count) in table {
        let mma = parse(text).unwrap();
        assert_eq!(
            (mma.registers(), mma.name(), mma.fma_count(), mma.wide()),
            (registers, name, count, text.contains("f64")),
            "{text}"
        );
    }
}

#[test]
fn what_sm_80_has_not_is_refused_by_name() {
    for (text, word) in [
        ("sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "sparse"),
        ("sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32", "sparse"),
        ("sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32", "fp8"),
        ("sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32", "sm_120"),
        (
            "sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0",
            "block-scaled",
        ),
        ("sync.aligned.m8n8k4.col.row.f32.f16.f16.f32", "sm_70"),
        ("sync.aligned.m16n8k4.row.col.f64.f64.f64.f64", "m16n8k4"),
        ("sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32", "m16n8k16"),
        ("sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32", "f32.bf16.f16.f32"),
        ("sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16", "f16.bf16.bf16.f16"),
        ("sync.aligned.m16n8k16.row.col.f32.f16.f16.f16", "f32.f16.f16.f16"),
        ("sync.aligned.m16n8k16.row.row.f32.f16.f16.f32", "row.col"),
        ("sync.aligned.m16n8k16.row.col.satfinite.f32.f16.f16.f32", "satfinite"),
        ("sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.or.popc", "or.popc"),
        ("sync.aligned.m16n8k32.row.col.s32.s8.s4.s32", "s8.s4"),
        ("sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32.relu", "relu"),
        ("sync.m16n8k16.row.col.f32.bf16.bf16.f32", "aligned"),
        ("sync.aligned", "aligned"),
        ("", "aligned"),
    ] {
        let message = Mma::parse(&text.split('.').collect::<Vec<_>>()).unwrap_err();
        assert!(message.contains(word), "{text}: {message}");
    }
}
