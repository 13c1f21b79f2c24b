//! Compiles kernels/*.cu into the binary, or takes the PTX of kernels/prebuilt where there is no nvcc.
//!
//! nvcc is looked for in `$CUDA_HOME`, `$CUDA_PATH`, the folder `.cuda` of tools/install-nvcc, and `$PATH`. Architectures come
//! from `$WARPTUNE_CUDA_ARCHS` (as in `80;90`), else from the GPU at hand, else only PTX for sm_80 is made, which every
//! later GPU's driver compiles when it loads it. A kernel is compiled again only when its source, a header, the flags or the
//! compiler changed. Nothing here uses the network.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, exit},
    sync::atomic::{AtomicUsize, Ordering},
};

use flate2::read::GzDecoder;

/// What every kernel is compiled with. No fast math: where an approximation is wanted, the source says so.
const FLAGS: &[&str] =
    &["-std=c++17", "-O3", "-lineinfo", "--expt-relaxed-constexpr", "-Werror", "all-warnings"];

/// The compiler that tools/install-nvcc installs.
const INSTALLED: &str = ".cuda/nvidia/cu13/bin/nvcc";

/// The architecture that kernels are written for at least.
const BASELINE: u32 = 80;

fn main() {
    for name in ["CUDA_HOME", "CUDA_PATH", "PATH", "WARPTUNE_CUDA_ARCHS", "WARPTUNE_PREBUILT_KERNELS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=kernels");
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    // A path that is not there would make every build run this again.
    if root.join(INSTALLED).is_file() {
        println!("cargo::rerun-if-changed={INSTALLED}");
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut sources = files(&root.join("kernels"), "cu");
    sources.sort();
    // Tests compare what nvcc makes here with what the repository carries.
    let nvcc = if env::var_os("WARPTUNE_PREBUILT_KERNELS").is_some() { None } else { find_nvcc(&root) };
    let modules: Vec<Module> = sources.into_iter().flat_map(Module::of).collect();
    let images = match &nvcc {
        Some(nvcc) => compile(nvcc, &root, &modules, &out),
        None => prebuilt(&root, &modules, &out),
    };
    let origin = match &nvcc {
        Some(nvcc) => format!("compiled by {} for {}", nvcc.version, nvcc.targets()),
        None => "prebuilt PTX for sm_80".to_owned(),
    };
    let mut text = format!("/// Where the kernels come from.\npub const ORIGIN: &str = {origin:?};\n\n");
    text += "/// The modules: name and image, a fatbin or PTX that ends with a zero byte.\n";
    text += "pub const MODULES: &[(&str, &[u8])] = &[\n";
    for (name, image) in images {
        text += &format!("    ({name:?}, include_bytes!({:?})),\n", image.display().to_string());
    }
    text += "];\n";
    write(&out.join("kernels.rs"), text.as_bytes());
}

/// Ends the build with a message.
fn fail(message: String) -> ! {
    println!("cargo::error={}", message.replace('\n', "\ncargo::error="));
    exit(1)
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(format!("cargo did not set {name}")))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| fail(format!("{}: cannot read: {e}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) {
    // Unchanged files keep their time, so that nothing is compiled again for nothing.
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return;
    }
    fs::write(path, bytes).unwrap_or_else(|e| fail(format!("{}: cannot write: {e}", path.display())));
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A file of kernels, compiled for bf16 or for f16.
struct Module {
    source: PathBuf,
    f16: bool,
}

impl Module {
    /// Those of a file: two where its kernels are named by the macros of kernels/common/elements.cuh. kernels/prebuild has the same rule.
    fn of(source: PathBuf) -> Vec<Module> {
        let text = String::from_utf8_lossy(&read(&source)).into_owned();
        let twice = ["OF_TYPES(", "OF_PAIRS(", "OF_HALF("].iter().any(|word| text.contains(word));
        let second = twice.then(|| Module { source: source.clone(), f16: true });
        [Module { source, f16: false }].into_iter().chain(second).collect()
    }

    fn name(&self) -> String {
        stem(&self.source) + if self.f16 { "_f16" } else { "" }
    }

    fn flags(&self) -> &'static [&'static str] {
        if self.f16 { &["-DWARPTUNE_F16"] } else { &[] }
    }
}

struct Nvcc {
    path: PathBuf,
    version: String,
    archs: Vec<u32>,
}

impl Nvcc {
    fn targets(&self) -> String {
        match &self.archs[..] {
            [] => format!("PTX of sm_{BASELINE}"),
            archs => archs.iter().map(|a| format!("sm_{a}")).collect::<Vec<_>>().join(", "),
        }
    }
}

fn find_nvcc(root: &Path) -> Option<Nvcc> {
    let named = |name: &str| env::var_os(name).map(|folder| PathBuf::from(folder).join("bin/nvcc"));
    let installed = root.join(INSTALLED);
    let search = env::var_os("PATH").unwrap_or_default();
    let candidates = [named("CUDA_HOME"), named("CUDA_PATH"), Some(installed)].into_iter().flatten();
    let path = candidates.chain(env::split_paths(&search).map(|p| p.join("nvcc"))).find(|p| p.is_file())?;
    let output = Command::new(&path).arg("--version").output();
    let Ok(output) = output.as_ref().map(|o| String::from_utf8_lossy(&o.stdout)) else {
        println!("cargo::warning={} cannot be run; prebuilt kernels are used", path.display());
        return None;
    };
    let version = output.lines().find_map(|l| l.split_once("release ")).map_or("nvcc", |(_, v)| v).trim();
    let version = format!("nvcc {version}");
    let archs = match env::var("WARPTUNE_CUDA_ARCHS") {
        Ok(list) => {
            list.split([';', ',', ' ']).filter(|a| !a.is_empty()).map(|a| parse_arch(a.trim())).collect()
        }
        Err(_) => gpu_archs(),
    };
    Some(Nvcc { path, version, archs })
}

fn parse_arch(text: &str) -> u32 {
    match text.trim_start_matches("sm_").parse() {
        Ok(arch) if arch >= BASELINE => arch,
        _ => fail(format!(
            "WARPTUNE_CUDA_ARCHS: {text:?} is not an architecture of {BASELINE} or above, as 80 or 90"
        )),
    }
}

/// Architectures of the GPUs at hand; none without a driver.
fn gpu_archs() -> Vec<u32> {
    let output =
        Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut archs: Vec<u32> = text.lines().filter_map(|l| l.trim().replace('.', "").parse().ok()).collect();
    archs.retain(|a| *a >= BASELINE);
    archs.sort_unstable();
    archs.dedup();
    archs
}

/// Compiles every kernel, as many at a time as there are processors.
fn compile(nvcc: &Nvcc, root: &Path, modules: &[Module], out: &Path) -> Vec<(String, PathBuf)> {
    let mut headers = files(&root.join("kernels/common"), "cuh");
    headers.sort();
    let next = AtomicUsize::new(0);
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, 64);
    let work = || {
        let mut done = Vec::new();
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((module.name(), compile_one(nvcc, module, &headers, out)));
        }
        done
    };
    let mut images: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|_| fail("a compiling thread died".into())))
            .collect()
    });
    images.sort();
    images
}

fn compile_one(nvcc: &Nvcc, module: &Module, headers: &[PathBuf], out: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    let source = &module.source;
    (FLAGS, module.flags(), &nvcc.version, &nvcc.archs).hash(&mut hasher);
    for file in [source].into_iter().chain(headers) {
        (stem(file), read(file)).hash(&mut hasher);
    }
    let kind = if nvcc.archs.is_empty() { "ptx" } else { "fatbin" };
    let image = out.join(format!("{}.{:016x}.{kind}", module.name(), hasher.finish()));
    if image.is_file() {
        return image;
    }
    let part = image.with_extension("part");
    let mut command = Command::new(&nvcc.path);
    command.args(FLAGS).args(module.flags()).arg("-o").arg(&part).arg(source);
    if nvcc.archs.is_empty() {
        command.arg("-ptx").arg(format!("-arch=sm_{BASELINE}"));
    } else {
        command.arg("-fatbin");
        for arch in &nvcc.archs {
            command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        }
        // PTX too, for GPUs that come later.
        let lowest = nvcc.archs.iter().min().unwrap_or(&BASELINE);
        command.arg(format!("-gencode=arch=compute_{lowest},code=compute_{lowest}"));
    }
    let output =
        command.output().unwrap_or_else(|e| fail(format!("{}: cannot run: {e}", nvcc.path.display())));
    if !output.status.success() {
        let text = [output.stderr, output.stdout].concat();
        fail(format!(
            "{}: {} says\n{}",
            source.display(),
            nvcc.version,
            String::from_utf8_lossy(&text).trim_end()
        ));
    }
    if kind == "ptx" {
        write(&part, &[read(&part), vec![0]].concat());
    }
    if let Err(e) = fs::rename(&part, &image) {
        fail(format!("{}: cannot rename: {e}", part.display()));
    }
    image
}

/// The PTX that the repository carries.
fn prebuilt(root: &Path, modules: &[Module], out: &Path) -> Vec<(String, PathBuf)> {
    let take = |module: &Module| {
        let (name, source) = (module.name(), &module.source);
        let file = root.join(format!("kernels/prebuilt/{name}.ptx.gz"));
        if !file.is_file() {
            let hint = "run tools/install-nvcc and build again, or kernels/prebuild where nvcc is at hand";
            fail(format!(
                "{} is missing and there is no nvcc to compile {}: {hint}",
                file.display(),
                source.display()
            ));
        }
        let image = out.join(format!("{name}.ptx"));
        let mut ptx = Vec::new();
        if let Err(e) = GzDecoder::new(&read(&file)[..]).read_to_end(&mut ptx) {
            fail(format!("{}: cannot decompress: {e}", file.display()));
        }
        ptx.push(0);
        write(&image, &ptx);
        (name, image)
    };
    modules.iter().map(take).collect()
}
