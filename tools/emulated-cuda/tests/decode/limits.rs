//! Limits and attributes of kernels.

use std::fmt::Write;

use super::{load, named};

fn parameters(version: &str, count: usize) -> String {
    let list: Vec<String> = (0..count).map(|at| format!(".param .b64 p{at}")).collect();
    format!(
        ".version {version}\n.target sm_80\n.address_size 64\n.visible .entry k({})\n{{\nret;\n}}\n",
        list.join(", ")
    )
}

#[test]
fn bytes_of_parameters() {
    assert_eq!(named(&parameters("8.0", 512), "k").parameter_bytes, 4096);
    assert!(load(&parameters("8.0", 513)).unwrap_err().to_string().contains("more than 4096 bytes"));
    assert_eq!(named(&parameters("8.1", 4095), "k").parameter_bytes, 32760);
    assert!(load(&parameters("8.1", 4096)).unwrap_err().to_string().contains("more than 32764 bytes"));
}

#[test]
fn parameters_are_aligned() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
                .visible .entry k(.param .u8 a, .param .u64 b, .param .align 16 .b8 c[20], .param .u16 d)\n{\nret;\n}\n";
    let kernel = named(text, "k");
    let places: Vec<_> = kernel.parameters.iter().map(|p| (p.offset, p.size)).collect();
    assert_eq!(places, [(0, 1), (8, 8), (16, 20), (36, 2)]);
    assert_eq!(kernel.parameter_bytes, 38);
}

#[test]
fn threads_and_memory() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 dynamic[];\n\
                .shared .align 4 .b8 used[20];\n.shared .b8 other[1000];\n\
                .visible .entry k()\n.maxntid 64, 2, 1\n{\n.local .align 8 .b8 depot[24];\n.reg .b32 %r<4>;\n\
                ld.shared.u32 %r1, [used+4];\nld.shared.u32 %r2, [dynamic+4];\nst.local.u32 [depot+8], %r1;\nret;\n}\n\
                .visible .entry m()\n.reqntid 32\n{\n.reg .b32 %r<4>;\nld.shared.u8 %r1, [other];\nret;\n}\n";
    let k = named(text, "k");
    assert_eq!((k.max_threads, k.required_threads, k.local_bytes), (128, None, 24));
    // What the kernel does not name takes no room; dynamic memory comes behind the rest, aligned.
    assert_eq!(k.static_shared, 32);
    let m = named(text, "m");
    assert_eq!((m.required_threads, m.static_shared, m.local_bytes), (Some([32, 1, 1]), 1000, 0));
}

/// A kernel as large as the largest that nvcc makes is decoded in reasonable time.
#[test]
fn large_kernels() {
    let mut body = String::new();
    for at in 0..10_000 {
        writeln!(body, "add.u32 %r{at}, %r{}, {at};", if at < 200 { at } else { at - 200 }).unwrap();
        if at % 10 == 9 {
            writeln!(
                body,
                "setp.ne.u32 %p1, %r{at}, 5;\n@%p1 bra L{at};\nxor.b32 %r{at}, %r{at}, 1;\nL{at}:"
            )
            .unwrap();
        }
    }
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.reg .pred %p<3>;\n.reg .b32 %r<10000>;\n\
         {body}ret;\n}}\n"
    );
    let started = std::time::Instant::now();
    let kernel = named(&text, "k");
    println!("{} instructions in {:?}", kernel.program.code.len(), started.elapsed());
    assert!(started.elapsed().as_secs() < 60);
    assert!((200..=203).contains(&kernel.program.rows), "{}", kernel.program.rows);
}
