//! Counting on the emulated device.

use std::path::Path;

use kernel_report::count::{Counted, Settings, count};
use kernel_report::problem::{Problem, parse};
use kernel_report::{Error, Result};

/// y[i] = 2 x[i] for 256 threads a block, through shared memory; a guard for the last block.
pub const SCALE: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .u64 y, .param .u32 n)
.maxntid 256, 1, 1
{
	.reg .pred %p<2>;
	.reg .f32 %f<4>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<8>;
	.shared .align 4 .b8 buffer[1024];
	ld.param.u64 %rd1, [x];
	ld.param.u64 %rd2, [y];
	ld.param.u32 %r1, [n];
	cvta.to.global.u64 %rd1, %rd1;
	cvta.to.global.u64 %rd2, %rd2;
	mov.u32 %r2, %ctaid.x;
	mov.u32 %r3, %tid.x;
	mad.lo.s32 %r4, %r2, 256, %r3;
	setp.ge.u32 %p1, %r4, %r1;
	mul.wide.u32 %rd3, %r4, 4;
	add.s64 %rd4, %rd1, %rd3;
	add.s64 %rd5, %rd2, %rd3;
	mov.u32 %r5, buffer;
	shl.b32 %r6, %r3, 2;
	add.s32 %r7, %r5, %r6;
	mov.f32 %f1, 0f00000000;
	@!%p1 ld.global.f32 %f1, [%rd4];
	st.shared.f32 [%r7], %f1;
	bar.sync 0;
	ld.shared.f32 %f2, [%r7];
	add.f32 %f3, %f2, %f2;
	@!%p1 st.global.f32 [%rd5], %f3;
	ret;
}
"#;

/// A problem file for [`SCALE`].
pub const PROBLEMS: &str = r#"
ptx = "scale.ptx"
[[kernel]]
name = "scale"
grid = ["ceil_div(n, 256)"]
block = [256]
parameters = [
  { buffer = "f32", length = "n" },
  { buffer = "f32", length = "n", fill = "none" },
  { scalar = "u32", value = "n" },
]
ideal = { bytes = "8 * n" }
sizes = [{ name = "10000", n = 10000 }, { name = "64 Ki", n = 65536 }]
"#;

fn problems(text: &str) -> Vec<Problem> {
    parse(Path::new("problems.toml"), text).unwrap().problems
}

fn run(problem: &Problem, max_blocks: u32) -> Result<Counted> {
    count(SCALE, problem, Settings { max_blocks, checks: true, seed: 3 })
}

#[test]
fn what_a_kernel_does_is_counted() {
    let problem = &problems(PROBLEMS)[0];
    let counted = run(problem, 0).unwrap();
    let c = &counted.counters;
    assert_eq!(counted.static_shared, 1024);
    // 10000 floats: 40 blocks of 8 warps, 1250 sectors each way; 313 warps hold an element (the last of them 16), 7 hold none.
    assert_eq!((c.blocks, c.warps), (40, 320));
    assert_eq!((c.global_load.sectors, c.global_store.sectors), (1250, 1250));
    assert_eq!((c.global_load.bytes, c.global_store.bytes), (40_000, 40_000));
    assert_eq!((c.footprint_read, c.footprint_written), (1250, 1250));
    assert_eq!((c.shared_load.wavefronts, c.shared_store.wavefronts), (320, 320));
    assert_eq!(c.barriers, 320);
    assert!(c.warp_instructions() >= 320 * 20);
}

#[test]
fn a_table_in_memory_counts_as_its_parameters_do() {
    // The kernel takes the same three from a struct: three more loads of one sector each for a warp.
    let ptx = SCALE.replace(".param .u64 x, .param .u64 y, .param .u32 n", ".param .u64 table").replace(
        "ld.param.u64 %rd1, [x];\n\tld.param.u64 %rd2, [y];\n\tld.param.u32 %r1, [n];",
        "ld.param.u64 %rd6, [table];\n\tld.global.u32 %r1, [%rd6];\n\tld.global.u64 %rd1, [%rd6+8];\n\t\
             ld.global.u64 %rd2, [%rd6+16];",
    );
    let (begin, rest) = PROBLEMS.split_once("parameters = [").unwrap();
    let table = "parameters = [{ table = [{ scalar = \"u32\", value = \"n\" }, \
                 { buffer = \"f32\", length = \"n\" }, { buffer = \"f32\", length = \"n\", fill = \"none\" }] },\n]";
    let text = format!("{begin}{table}{}", rest.split_once("\n]").unwrap().1);
    let counted =
        count(&ptx, &problems(&text)[0], Settings { max_blocks: 0, checks: true, seed: 3 }).unwrap();
    let c = &counted.counters;
    assert_eq!((c.global_load.sectors, c.global_store.sectors), (1250 + 3 * 320, 1250));
    assert_eq!(c.footprint_written, 1250);
}

#[test]
fn a_sample_of_the_blocks_does_its_share() {
    let problem = &problems(PROBLEMS)[1];
    let (all, some) = (run(problem, 0).unwrap().counters, run(problem, 16).unwrap().counters);
    assert_eq!((all.blocks, some.blocks), (256, 16));
    assert_eq!(all.warp_instructions(), 16 * some.warp_instructions());
    assert_eq!(all.global_load.sectors, 16 * some.global_load.sectors);
    assert_eq!(run(problem, 256).unwrap().counters, all, "as many as there are: all");
}

#[test]
fn a_sample_stands_for_the_grid() {
    // Causal attention, whose blocks cost the more the later their rows are.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("problems/attention_fwd.toml");
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("heads = 32, tokens = 2048", "heads = 16, tokens = 1024");
    let family = parse(&file, &text).unwrap();
    let ptx = family.text().unwrap();
    let mma = |max_blocks| {
        let counted =
            count(&ptx, &family.problems[0], Settings { max_blocks, checks: false, seed: 0 }).unwrap();
        counted.counters.mma["m16n8k16.bf16"] as f64 / counted.counters.blocks as f64
    };
    let (some, all) = (mma(32), mma(0));
    assert!((some / all - 1.0).abs() < 0.05, "{some} a block in the sample, {all} in the grid");
}

#[test]
fn problems_that_do_not_fit_the_kernel() {
    let error = |old: &str, new: &str| {
        assert!(PROBLEMS.contains(old));
        run(&problems(&PROBLEMS.replace(old, new))[0], 0).unwrap_err().to_string()
    };
    let cases = [
        ("name = \"scale\"", "name = \"scael\"", "no such kernel; the PTX has: scale"),
        ("block = [256]", "block = [512]", "a block of 512 threads; it allows 256"),
        ("  { scalar = \"u32\", value = \"n\" },\n", "", "it takes 3 parameters, the problem gives 2"),
        ("scalar = \"u32\"", "scalar = \"u64\"", "parameters[2]: it takes 4 bytes, the problem gives 8"),
        ("\"f32\", length = \"n\" }", "\"f32\", length = \"n - 8\" }", "scale"),
        ("length = \"n\" }", "length = \"n * 200000000000000\" }", "bytes of memory"),
    ];
    for (old, new, part) in cases {
        let error = error(old, new);
        assert!(error.contains(part), "{new}: {error}");
    }
    let broken = count("garbage", &problems(PROBLEMS)[0], Settings { max_blocks: 0, checks: false, seed: 0 });
    assert!(matches!(broken, Err(Error::Kernel { .. })));
}

#[test]
fn the_example_problems_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("problems");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        // Those of third parties need sources that are not here.
        if file.is_dir() {
            continue;
        }
        let family = kernel_report::problem::read(&file).unwrap();
        let ptx = family.text().unwrap();
        for problem in &family.problems {
            let counted = count(&ptx, problem, Settings { max_blocks: 1, checks: true, seed: 0 }).unwrap();
            assert!(counted.counters.warp_instructions() > 0, "{}", problem.kernel);
        }
        files += 1;
    }
    assert!(files >= 6, "{files} files");
}
