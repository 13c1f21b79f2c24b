//! kernels/prebuilt is made from kernels/ as it is now.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn prebuilt_kernels_are_those_of_the_sources() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let headers = files(&kernels.join("common"), "cuh");
    let manifest = std::fs::read_to_string(kernels.join("prebuilt/manifest")).unwrap();
    let mut modules = Vec::new();
    let mut expected = String::from("release 13.0, V13.0.88\n");
    for source in files(&kernels, "cu") {
        let mut hash = Sha256::new();
        [&source].into_iter().chain(&headers).for_each(|file| hash.update(std::fs::read(file).unwrap()));
        let digits = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        writeln!(expected, "{digits}  {}", stem(&source)).unwrap();
        modules.push(stem(&source));
        // What is compiled for f16 too: see build.rs.
        let text = std::fs::read_to_string(&source).unwrap();
        if ["OF_TYPES(", "OF_PAIRS(", "OF_HALF("].iter().any(|word| text.contains(word)) {
            modules.push(format!("{}_f16", stem(&source)));
        }
    }
    assert_eq!(
        manifest, expected,
        "kernels/prebuilt is stale: run kernels/prebuild and commit what it makes"
    );
    modules.sort();
    let present: Vec<_> =
        files(&kernels.join("prebuilt"), "gz").iter().map(|p| stem(p).replace(".ptx", "")).collect();
    assert_eq!(present, modules, "PTX without a source, or the other way round");
}
