//! What ptxas prints, and tools that are not there or fail.

use std::path::{Path, PathBuf};

use kernel_report::resources::{Resources, Toolkit, assemble, parse};

/// From `ptxas -v` of release 13.0, with a device function and a kernel that spills.
const PRINTED: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    48 bytes stack frame, 52 bytes spill stores, 56 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24576 bytes smem, 396 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compile time = 18.127 ms
ptxas info    : Function properties for helper
    1600 bytes stack frame, 1 bytes spill stores, 1 bytes spill loads
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 372 bytes cmem[0]
";

#[test]
fn every_kernel_is_read() {
    let kernels = parse(PRINTED);
    assert_eq!(kernels.keys().collect::<Vec<_>>(), ["first", "second"]);
    let first = Resources {
        registers: 255,
        spill_stores: 52,
        spill_loads: 56,
        stack: 48,
        shared: 24_576,
        barriers: 1,
    };
    assert_eq!(kernels["first"], first);
    assert_eq!(kernels["second"], Resources { registers: 16, ..Resources::default() });
    assert!(parse("").is_empty() && parse("Used 3 registers\nbytes stack frame").is_empty());
}

#[test]
fn tools_are_found_in_the_first_folder_that_has_them() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(b.path().join("ptxas"), "").unwrap();
    std::fs::write(b.path().join("nvdisasm"), "").unwrap();
    std::fs::write(a.path().join("nvdisasm"), "").unwrap();
    let found = Toolkit::in_folders(&[a.path().to_path_buf(), b.path().to_path_buf()]);
    assert_eq!(found.ptxas, Some(b.path().join("ptxas")));
    assert_eq!(found.nvdisasm, Some(a.path().join("nvdisasm")));
    assert_eq!(Toolkit::in_folders(&[]), Toolkit::default());
}

#[test]
fn what_a_tool_says_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let cubin = folder.path().join("x");
    let error =
        assemble(Path::new("/no/such/ptxas"), Path::new("a.ptx"), "sm_80", &cubin).unwrap_err().to_string();
    assert!(error.contains("/no/such/ptxas: cannot be started"), "{error}");
    // /bin/false stands for an assembler that refuses.
    let refusing = ["/bin/false", "/usr/bin/false"].map(PathBuf::from).into_iter().find(|path| path.exists());
    let error = assemble(&refusing.unwrap(), Path::new("a.ptx"), "sm_80", &cubin).unwrap_err().to_string();
    assert!(error.contains("false: exit status: 1"), "{error}");
}

/// With the toolkit at hand, what ptxas prints today is still read.
#[test]
fn the_real_assembler() {
    let Some(ptxas) = Toolkit::find().ptxas else {
        eprintln!("skipped: there is no ptxas");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let ptx = folder.path().join("k.ptx");
    std::fs::write(&ptx, crate::count::SCALE).unwrap();
    let kernels = assemble(&ptxas, &ptx, "sm_80", &folder.path().join("k.cubin")).unwrap();
    let scale = kernels["scale"];
    assert!((4..64).contains(&scale.registers), "{scale:?}");
    assert_eq!((scale.shared, scale.barriers, scale.spill_stores), (1024, 1, 0));
}
