//! Problem files.

use std::path::Path;

use kernel_report::Result;
use kernel_report::count::content;
use kernel_report::problem::{Family, Fill, Parameter, Type, parse};
use kernel_report::random::Random;

const FILE: &str = r#"
ptx = "kernels/gemm.ptx"

[[kernel]]
name = "gemm"
grid = ["ceil_div(n, 64)", "ceil_div(m, 64)"]
block = [32, 4]
dynamic_shared = "2 * 1024"
parameters = [
  { buffer = "bf16", length = "m * k" },
  { buffer = "u32", length = 10, below = "n" },
  { buffer = "s32", length = "m + 1", fill = "steps", step = "k" },
  { buffer = "f32", length = "m * n", fill = "none" },
  { buffer = "u16", rows = 2, values = ["row + 1", "k"] },
  { buffer = "f32", length = "k", fill = "zeros", addresses = "m" },
  { scalar = "s32", value = "m" },
  { scalar = "s8", value = -3 },
  { scalar = "f32", value = 0.5 },
  { scalar = "f32", value = 2 },
  { fields = [{ scalar = "u8", value = 1 }, { scalar = "f64", value = 1.5 }, { buffer = "u8", length = "k" }, { scalar = "u16", value = "k" }] },
]
ideal = { operations = { bf16 = "2 * m * n * k" }, bytes = "2 * m * k" }
sizes = [{ name = "small", m = 100, n = 200, k = 300 }, { name = "one", m = 1, n = 1, k = 1 }]
"#;

fn read(text: &str) -> Result<Family> {
    parse(Path::new("folder/problems.toml"), text)
}

#[test]
fn a_file_gives_every_kernel_on_every_size() {
    let family = read(FILE).unwrap();
    assert_eq!(family.ptx, Path::new("folder/kernels/gemm.ptx"));
    let [small, one] = family.problems.as_slice() else { panic!("{} problems", family.problems.len()) };
    assert_eq!((small.kernel.as_str(), small.size.as_str()), ("gemm", "small"));
    assert_eq!((small.grid, small.block, small.dynamic_shared), ([4, 2, 1], [32, 4, 1], 2048));
    assert_eq!((small.blocks(), small.threads()), (8, 128));
    let buffer = |ty, length, fill, below, step| Parameter::Buffer { ty, length, fill, below, step };
    let expected = [
        buffer(Type::Bf16, 30_000, Fill::Random, 0, 1),
        buffer(Type::U32, 10, Fill::Random, 200, 1),
        buffer(Type::S32, 101, Fill::Steps, 0, 300),
        buffer(Type::F32, 20_000, Fill::None, 0, 1),
        Parameter::Rows(vec![1, 0, 44, 1, 2, 0, 44, 1]),
        Parameter::Addresses { count: 100, buffer: Box::new(buffer(Type::F32, 300, Fill::Zeros, 0, 1)) },
        Parameter::Scalar(100i32.to_le_bytes().to_vec()),
        Parameter::Scalar(vec![0xfd]),
        Parameter::Scalar(0.5f32.to_le_bytes().to_vec()),
        Parameter::Scalar(2f32.to_le_bytes().to_vec()),
        Parameter::Struct(vec![
            Parameter::Scalar(vec![1]),
            Parameter::Scalar(1.5f64.to_le_bytes().to_vec()),
            buffer(Type::U8, 300, Fill::Random, 0, 1),
            Parameter::Scalar(300u16.to_le_bytes().to_vec()),
        ]),
    ];
    assert_eq!(small.parameters, expected);
    assert_eq!(small.ideal.operations, [("bf16".to_string(), 12e6)]);
    assert_eq!(small.ideal.bytes, 60_000.0);
    assert_eq!((one.grid, one.ideal.bytes), ([1, 1, 1], 2.0));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let cases = [
        ("name = \"gemm\"\n", "", "missing field `name`"),
        ("block = [32, 4]", "block = [32, 4]\nblocks = 3", "unknown field `blocks`"),
        ("[32, 4]", "[32, 64]", "gemm, size small: block: has 2048 threads"),
        ("[32, 4]", "[32, 0]", "block: is 0 in a dimension"),
        ("[32, 4]", "[]", "block: has 0 dimensions"),
        ("\"ceil_div(m, 64)\"", "\"m * 1000\"", "grid:"),
        ("\"ceil_div(m, 64)\"", "\"q\"", "no size 'q'"),
        (
            "{ buffer = \"bf16\", length = \"m * k\" }",
            "{ buffer = \"bf16\" }",
            "parameters[0]: a buffer needs a length",
        ),
        ("{ buffer = \"bf16\", length = \"m * k\" }", "{ length = 3 }", "parameters[0]: is one of { buffer"),
        ("{ buffer = \"bf16\",", "{ buffer = \"bf17\",", "unknown variant `bf17`"),
        ("below = \"n\"", "below = \"n - n\"", "parameters[1]: below"),
        (
            "{ buffer = \"bf16\", length = \"m * k\" }",
            "{ buffer = \"bf16\", length = 3, below = 2 }",
            "below",
        ),
        ("fill = \"steps\", step", "step", "parameters[2]: step"),
        ("value = -3", "value = -300", "-300 does not fit into S8"),
        ("value = -3", "value = 0.5", "0.5 is no whole number"),
        (
            "[\"row + 1\", \"k\"]",
            "[\"row + 1\", \"k * row * 1000\"]",
            "parameters[4]: row 1: 300000 does not fit",
        ),
        ("rows = 2", "rows = 2000000", "parameters[4]: a table has up to 1048576 rows"),
        ("buffer = \"u16\"", "buffer = \"f16\"", "parameters[4]: a table has up to"),
        ("rows = 2", "length = 2", "parameters[4]: a buffer has no value"),
        ("value = \"m\"", "length = 3", "parameters[6]: is one of { buffer"),
        (", value = \"m\" }", " }", "parameters[6]: a scalar needs a value"),
        (
            "{ scalar = \"u8\", value = 1 }",
            "{ scalar = \"u8\", value = 300 }",
            "parameters[10]: fields[0]: 300 does not fit",
        ),
        ("\"2 * 1024\"", "\"m * 100000000\"", "dynamic_shared"),
        ("bf16 = \"2 * m * n * k\"", "bf16 = \"2 *\"", "ideal.operations.bf16"),
    ];
    for (old, new, part) in cases {
        assert!(FILE.contains(old), "{old}");
        let error = read(&FILE.replacen(old, new, 1)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("problems.toml"), "{new}: {error}");
    }
    let none = FILE.split("sizes =").next().unwrap().to_string() + "sizes = []";
    assert!(read(&none).unwrap_err().to_string().contains("there is no size"));
    assert!(
        kernel_report::problem::read(Path::new("nowhere.toml"))
            .unwrap_err()
            .to_string()
            .contains("nowhere.toml")
    );
}

#[test]
fn tables_hold_scalars_and_addresses() {
    let table = "{ table = [{ scalar = \"u32\", value = \"k\" }, { buffer = \"f32\", length = \"m\", fill = \"none\" }] }";
    let old = "{ scalar = \"s8\", value = -3 }";
    let family = read(&FILE.replacen(old, table, 1)).unwrap();
    let is_table = |p: &&Parameter| matches!(p, Parameter::Table(_));
    let parameter = family.problems[0].parameters.iter().find(is_table).unwrap();
    let buffer = Parameter::Buffer { ty: Type::F32, length: 100, fill: Fill::None, below: 0, step: 1 };
    let members = vec![Parameter::Scalar(300u32.to_le_bytes().to_vec()), buffer];
    assert_eq!((parameter, parameter.buffer_bytes()), (&Parameter::Table(members), Some(400)));
    for (bad, part) in [
        ("{ table = [{ table = [] }] }", "table[0]: a struct in a struct"),
        ("{ table = [{ buffer = \"f32\" }] }", "table[0]: a buffer needs a length"),
        ("{ table = [], scalar = \"u8\", value = 1 }", "a struct has nothing beside it"),
    ] {
        let error = read(&FILE.replacen(old, bad, 1)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("parameters["), "{error}");
    }
}

#[test]
fn buffers_hold_what_is_asked_for() {
    let fill = |ty, fill, below, step| content(ty, 0..1000, fill, below, step, &mut Random::new(1));
    let words = |bytes: Vec<u8>| -> Vec<u32> {
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let small = words(fill(Type::U32, Fill::Random, 7, 1));
    assert_eq!(small.len(), 1000);
    assert!((0..7).all(|x| small.iter().filter(|y| **y == x).count() > 50) && small.iter().all(|x| *x < 7));
    let steps = words(fill(Type::U32, Fill::Steps, 0, 3));
    assert!(steps.iter().enumerate().all(|(i, x)| *x == 3 * i as u32));
    let late = words(content(Type::U32, 10..12, Fill::Steps, 0, 3, &mut Random::new(1)));
    assert_eq!(late, [30, 33]);
    assert_eq!(words(content(Type::U32, 10..12, Fill::Ends, 0, 3, &mut Random::new(1))), [33, 36]);
    assert_eq!(content(Type::F32, 0..1, Fill::Ends, 0, 3, &mut Random::new(1)), 3f32.to_le_bytes());
    assert!(fill(Type::F64, Fill::None, 0, 1).is_empty());
    assert_eq!(fill(Type::U16, Fill::Zeros, 0, 1), vec![0; 2000]);
    let floats: Vec<f32> =
        words(fill(Type::F32, Fill::Random, 0, 1)).into_iter().map(f32::from_bits).collect();
    let mean = floats.iter().sum::<f32>() / 1000.0;
    let square = floats.iter().map(|x| x * x).sum::<f32>() / 1000.0;
    assert!(floats.iter().all(|x| x.abs() <= 1.0) && mean.abs() < 0.08 && (square - 1.0 / 3.0).abs() < 0.05);
    let halves = fill(Type::Bf16, Fill::Random, 0, 1);
    let first = f32::from_bits(u32::from(u16::from_le_bytes([halves[0], halves[1]])) << 16);
    assert!((first - floats[0]).abs() <= floats[0].abs() / 256.0, "the same numbers in every type");
}
