//! Tests of what only this module can reach: the allocator of a device of its own, graphs, and launchers that do not fit.

use emulated_cuda::machine::{Checks, Options};

use super::{Buffer, CudaDevice, Graph, Grid, MemoryStats, Pointer, kernel};
use crate::device::Device;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The emulated device, opened anew: no other test uses its allocator.
fn device() -> &'static CudaDevice {
    // These devices, and what they have cached, live as long as the process.
    let checks = Checks { leaks: false, ..Checks::ALL };
    emulated_cuda::install(Options { checks, ..Options::default() }).unwrap();
    Box::leak(Box::new(CudaDevice::open(0).unwrap()))
}

fn refusal<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Cuda { what, detail }) => format!("{what}: {detail}"),
        Err(memory @ Error::DeviceMemory { .. }) => memory.with_memory_plan(&"about 3 MiB").to_string(),
        Err(other) => panic!("not an error of the device: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn statistics_follow_what_is_alive() {
    let device = device();
    let first = device.allocate(1000).unwrap();
    let second = device.allocate(5000).unwrap();
    let stats = device.memory_stats();
    assert!(stats.in_use >= 6000 && stats.in_use < 6000 + 2 * 512 + 5000 / 8);
    assert_eq!((stats.peak, stats.reserved), (stats.in_use, stats.in_use));
    drop(first);
    let left = device.memory_stats();
    assert!(left.in_use >= 5000 && left.in_use < stats.in_use);
    assert_eq!((left.peak, left.reserved), (stats.peak, stats.reserved), "a freed block is kept");
    drop(second);
    assert_eq!(device.memory_stats().in_use, 0);
}

#[test]
fn a_freed_block_is_given_out_again() {
    let device = device();
    let address = device.allocate(700).unwrap().address();
    let again = device.allocate(600).unwrap();
    assert_eq!(again.address(), address, "both need a block of 1024 bytes");
    let reserved = device.memory_stats().reserved;
    let other = device.allocate(600).unwrap();
    assert_ne!(other.address(), address);
    assert_eq!(device.memory_stats().reserved, 2 * reserved);
}

#[test]
fn without_caching_nothing_is_kept_and_blocks_are_exact() {
    let device = device();
    drop(device.allocate(10_000).unwrap());
    device.set_memory_caching(false);
    assert_eq!(device.memory_stats().reserved, 0, "what was cached goes back");
    let buffer = device.allocate(77).unwrap();
    assert_eq!(device.memory_stats().reserved, 77);
    drop(buffer);
    assert_eq!(device.memory_stats().reserved, 0);
}

#[test]
fn the_limit_holds_cached_blocks_make_room_and_the_error_says_what_to_do() {
    let device = device();
    device.set_memory_limit(3 << 20);
    let kept = device.allocate(1 << 20).unwrap();
    drop(device.allocate(2 << 20).unwrap());
    // Fits only if the cached block of 2 MiB goes back to the driver.
    let other = device.allocate(3 << 19).unwrap();
    let before = device.memory_stats();
    let text = refusal(device.allocate(1 << 20));
    assert!(text.starts_with("cuda: 1 MiB more do not fit "), "{text}");
    assert!(
        text.contains(
            "the limit is 3 MiB; 3 MiB are in use, 3 MiB at the peak, planned about 3 MiB. Use a smaller"
        ),
        "{text}"
    );
    assert_eq!(device.memory_stats(), before, "a refusal takes nothing");
    drop((kept, other));
    assert!(device.allocate(2 << 20).is_ok());
}

#[test]
fn host_memory_is_reached_by_copies_and_kernels_counted_apart_and_given_back() {
    let device = device();
    device.set_memory_limit(1 << 20);
    let before = device.memory_stats();
    // More than the device is allowed.
    let buffer = device.allocate_on_host(2 << 20).unwrap();
    assert_eq!(device.memory_stats(), MemoryStats { host: 2 << 20, ..before });
    buffer.zero(2 << 20).unwrap();
    buffer.write(1000, &[1, 2, 3, 4]).unwrap();
    buffer.fill_u32(2, 0x0102_0304).unwrap();
    let mut found = [9; 1004];
    buffer.read(0, &mut found).unwrap();
    assert_eq!((&found[..9], &found[999..]), (&[4, 3, 2, 1, 4, 3, 2, 1, 0][..], &[0, 1, 2, 3, 4][..]));
    // A copy between the two, and back.
    let here = device.allocate(1004).unwrap();
    here.copy_from(0, &buffer, 0, 1004).unwrap();
    let mut copied = [0; 1004];
    here.read(0, &mut copied).unwrap();
    assert_eq!(found, copied);
    drop(buffer);
    assert_eq!(device.memory_stats().host, 0);
    // An empty one is one.
    assert_eq!(device.allocate_on_host(0).unwrap().device().ordinal(), 0);
    assert!(emulated_cuda::reports().is_empty());
}

#[test]
fn room_is_what_the_limit_and_the_driver_leave() {
    let device = device();
    let all = device.memory_room().unwrap();
    assert!(all <= device.properties().memory);
    device.set_memory_limit(1 << 20);
    assert_eq!(device.memory_room().unwrap(), 1 << 20);
    let buffer = device.allocate(1000).unwrap();
    assert_eq!(device.memory_room().unwrap(), (1 << 20) - device.block_bytes(1000));
    drop(buffer);
    // What is cached is room, too.
    assert_eq!(device.memory_room().unwrap(), 1 << 20);
    device.allocate(device.memory_room().unwrap()).unwrap();
}

#[test]
fn memory_that_the_driver_does_not_have_is_an_error() {
    let device = device();
    let text = refusal(device.allocate(1 << 45));
    assert!(text.contains("MiB more do not fit") && text.contains("are in use"), "{text}");
    assert!(text.to_lowercase().contains("out of memory"), "{text}");
    assert!(refusal(device.allocate(usize::MAX)).contains("no device has so many"));
    assert!(device.allocate(100).is_ok(), "the device still works");
}

#[test]
fn bytes_come_back_from_any_offset_and_zeros_are_zeros() {
    let device = device();
    let buffer = device.allocate(100).unwrap();
    buffer.zero(100).unwrap();
    buffer.write(10, &[1, 2, 3]).unwrap();
    let mut bytes = [9; 6];
    buffer.read(9, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 1, 2, 3, 0, 0]);
    let copy = device.allocate(100).unwrap();
    copy.copy_from(5, &buffer, 10, 3).unwrap();
    let mut bytes = [0; 3];
    copy.read(5, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3]);
}

/// More bytes than the staging memory holds, and more copies than it has slots: none overtakes another.
#[test]
fn large_and_many_copies_arrive_whole() {
    let device = device();
    let bytes: Vec<u8> =
        (0..(17 << 20) + 5).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let buffer = device.allocate(bytes.len()).unwrap();
    buffer.write(0, &bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    buffer.read(0, &mut back).unwrap();
    assert!(bytes == back);
    let mut small = [0u8; 40];
    (0..40u8).for_each(|i| buffer.write(usize::from(i), &[i]).unwrap());
    buffer.read(0, &mut small).unwrap();
    assert!(small.iter().copied().eq(0..40));
}

kernel! {
    /// As kernels/cast.cu has it.
    Cast in "cast" { x: Pointer, y: Pointer, n: u64 }
}
kernel! {
    /// The last parameter is too small.
    Narrow in "cast" { x: Pointer, y: Pointer, n: u32 }
}
kernel! {
    /// One parameter is missing.
    Short in "cast" { x: Pointer, y: Pointer }
}
kernel! {
    /// One parameter too many.
    Long in "cast" { x: Pointer, y: Pointer, n: u64, scale: f32 }
}
kernel! {
    /// There is no such module.
    Nowhere in "nothing" { n: u64 }
}

/// Eight numbers on the device, and room for them in bf16.
fn operands(device: &'static CudaDevice) -> (Buffer, Buffer) {
    let x = device.allocate(32).unwrap();
    let numbers: [f32; 8] = [0.0, 1.0, -2.0, 0.5, 4.0, -8.0, 16.0, 3.0];
    x.write(0, bytemuck::cast_slice(&numbers)).unwrap();
    (x, device.allocate(16).unwrap())
}

#[test]
fn a_launcher_that_does_not_fit_its_kernel_is_refused_before_the_launch() {
    const ENTRY: &str = "cast_fwd_f32_bf16";
    let device = device();
    let (source, target) = operands(device);
    let (x, y) = (Pointer(source.address()), Pointer(target.address()));
    let grid = Grid::new(1, 32);
    let text = refusal(device.launch(ENTRY, Narrow { x, y, n: 8 }, grid));
    assert_eq!(
        text,
        "kernel cast_fwd_f32_bf16: its parameters take [8, 8, 8] bytes, the launcher has [8, 8, 4]"
    );
    assert!(refusal(device.launch(ENTRY, Short { x, y }, grid)).contains("the launcher has [8, 8]"));
    let long = Long { x, y, n: 8, scale: 1.0 };
    assert!(refusal(device.launch(ENTRY, long, grid)).contains("the launcher has [8, 8, 8, 4]"));
    device.launch(ENTRY, Cast { x, y, n: 8 }, grid).unwrap();
    let text = refusal(device.launch(ENTRY, Narrow { x, y, n: 8 }, grid));
    assert!(text.contains("the launcher has [8, 8, 4]"), "also after the kernel was looked up: {text}");

    let mut rounded = [0u16; 8];
    target.read(0, bytemuck::cast_slice_mut(&mut rounded)).unwrap();
    assert_eq!(rounded, [0, 0x3f80, 0xc000, 0x3f00, 0x4080, 0xc100, 0x4180, 0x4040]);
    assert!(emulated_cuda::reports().is_empty(), "nothing wrong was launched");
}

#[test]
fn unknown_kernels_and_modules_are_named() {
    let device = device();
    let arguments = Cast { x: Pointer::NULL, y: Pointer::NULL, n: 0 };
    let text = refusal(device.launch("cast_fwd_f32_f8", arguments, Grid::new(1, 32)));
    assert!(text.starts_with("kernel cast_fwd_f32_f8 of module cast: "), "{text}");
    let text = refusal(device.launch("anything", Nowhere { n: 0 }, Grid::new(1, 32)));
    assert_eq!(text, "module nothing: not in this binary");
}

#[test]
fn a_launch_that_the_device_cannot_have_is_an_error_with_its_grid() {
    let device = device();
    let arguments = Cast { x: Pointer::NULL, y: Pointer::NULL, n: 0 };
    let text = refusal(device.launch("cast_fwd_f32_bf16", arguments, Grid::new(1, 2048)));
    assert!(text.starts_with("kernel cast_fwd_f32_bf16 on Grid") && text.contains("threads: 2048"), "{text}");
    let text = refusal(device.launch("cast_fwd_f32_bf16", arguments, Grid::new(1 << 40, 32)));
    assert!(text.contains("is too large"), "{text}");
    let much = Grid { shared: 1 << 20, ..Grid::new(1, 32) };
    let text = refusal(device.launch("cast_fwd_f32_bf16", arguments, much));
    assert!(text.starts_with("1048576 bytes of shared memory for kernel cast_fwd_f32_bf16: "), "{text}");
    device.launch("cast_fwd_f32_bf16", arguments, Grid::new(0, 32)).unwrap();
    device.synchronize().unwrap();
}

/// A tensor of a device that no other test uses.
fn tensor(device: &'static CudaDevice, numbers: &[f32]) -> Tensor {
    let mut tensor = Tensor::uninitialised(device, &[numbers.len()], DType::F32).unwrap();
    tensor.overwrite(&Tensor::from_f32(numbers.to_vec(), &[numbers.len()])).unwrap();
    tensor
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(Device::Cpu).unwrap().to_vec_f32().unwrap()
}

/// x rounded to bf16 and back, twice that: three kernels and a copy, with tensors that come and go.
fn work(x: &Tensor) -> Result<Tensor> {
    let y = x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
    let mut sum = y.clone();
    sum.add_assign(&y)?;
    Ok(sum)
}

fn captured(device: &'static CudaDevice, x: &Tensor) -> (Graph, Tensor) {
    device.capture(|| work(x)).unwrap()
}

#[test]
fn a_graph_runs_when_it_is_launched_and_again_with_what_is_there_then() {
    let device = device();
    let mut x = tensor(device, &[1.0, 2.0, -3.5]);
    let (mut graph, y) = captured(device, &x);
    for step in 0..3 {
        let values = [step as f32, 2.0 + step as f32, -3.5];
        x.overwrite(&Tensor::from_f32(values.to_vec(), &[3])).unwrap();
        graph.launch().unwrap();
        assert_eq!(numbers(&y), values.map(|v| 2.0 * v));
    }
    assert_eq!(numbers(&work(&x).unwrap()), numbers(&y), "work without a graph still runs at once");
    assert!(emulated_cuda::reports().is_empty());
}

#[test]
fn memory_of_a_graph_is_its_own_until_it_and_its_results_are_gone() {
    let device = device();
    let x = tensor(device, &[1.0; 100]);
    let alone = device.memory_stats().in_use;
    let mut inside = Vec::new();
    let (mut graph, y) = device
        .capture(|| {
            for _ in 0..4 {
                inside.push(device.allocate(400)?.address());
            }
            work(&x)
        })
        .unwrap();
    assert!(inside.iter().all(|&at| at == inside[0]), "what is freed in a capture is used again in it");
    let reserved = device.memory_stats().in_use;
    assert!(reserved > alone);
    let others: Vec<_> = (0..20).map(|_| device.allocate(400).unwrap()).collect();
    assert!(others.iter().all(|other| !inside.contains(&other.address())));
    others.iter().for_each(|other| other.write(0, &[255; 400]).unwrap());
    graph.launch().unwrap();
    assert_eq!(numbers(&y), [2.0; 100]);
    drop(others);
    drop(graph);
    assert_eq!(device.memory_stats().in_use, reserved, "the result is still there");
    assert_eq!(numbers(&y), [2.0; 100]);
    drop(y);
    assert_eq!(device.memory_stats().in_use, alone);
    // Without a cache too.
    device.set_memory_caching(false);
    let (mut graph, y) = captured(device, &x);
    graph.launch().unwrap();
    assert_eq!(numbers(&y), [2.0; 100]);
    drop((graph, y));
    let stats = device.memory_stats();
    assert_eq!((stats.in_use, stats.reserved), (alone, alone));
    assert!(emulated_cuda::reports().is_empty());
}

#[test]
fn operands_live_as_long_as_the_graph() {
    let device = device();
    let start = device.memory_stats().in_use;
    let x = tensor(device, &[4.0; 50]);
    // What is dropped within the capture, and after it.
    let early = x.to_dtype(DType::F32).unwrap();
    let part = x.rows(10, 5).unwrap();
    let (mut graph, y) = device
        .capture(move || {
            let y = work(&early)?;
            drop(early);
            Ok([y, work(&part)?])
        })
        .unwrap();
    drop(x);
    let others: Vec<_> = (0..20).map(|_| tensor(device, &[7.0; 50])).collect();
    graph.launch().unwrap();
    assert_eq!(y.each_ref().map(numbers), [vec![8.0; 50], vec![8.0; 5]]);
    drop((others, graph, y));
    assert_eq!(device.memory_stats().in_use, start);
    assert!(emulated_cuda::reports().is_empty());
}

#[test]
fn a_capture_that_fails_leaves_no_trace() {
    let device = device();
    let x = tensor(device, &[1.0; 10]);
    let alone = device.memory_stats().in_use;
    let cannot = "it cannot be part of a graph: do it before the capture or after the launch";
    let read = device.capture(|| work(&x)?.to_device(Device::Cpu));
    assert_eq!(refusal(read), format!("copying 40 bytes from {}: {cannot}", device.name()));
    let write = device.capture(|| {
        let y = work(&x)?;
        y.clone().overwrite(&Tensor::zeros(&[10], DType::F32)).map(|()| y)
    });
    assert_eq!(refusal(write), format!("copying 40 bytes to {}: {cannot}", device.name()));
    let wait = device.capture(|| device.synchronize());
    assert_eq!(refusal(wait), format!("waiting for {}: {cannot}", device.name()));
    let nested = device.capture(|| device.capture(|| work(&x)));
    assert!(refusal(nested).ends_with("this thread is capturing already"));
    let (mut graph, y) = captured(device, &x);
    let launched = device.capture(|| graph.launch());
    assert_eq!(refusal(launched), format!("a graph on {}: {cannot}", device.name()));
    let own = device.capture(|| -> Result<()> { Err(Error::model("this", "fails")) });
    assert!(matches!(own, Err(Error::Model { .. })));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = device.capture(|| -> Result<()> {
            drop(work(&x));
            std::panic::resume_unwind(Box::new("in a capture"))
        });
    }));
    assert!(panicked.is_err());
    graph.launch().unwrap();
    assert_eq!(numbers(&y), [2.0; 10]);
    assert_eq!(numbers(&work(&x).unwrap()), [2.0; 10]);
    drop((graph, y));
    assert_eq!(device.memory_stats().in_use, alone);
    let (mut nothing, ()) = device.capture(|| Ok(())).unwrap();
    nothing.launch().unwrap();
    assert!(emulated_cuda::reports().is_empty());
}

#[test]
fn other_threads_go_on_while_one_captures() {
    let device = device();
    let x = tensor(device, &[1.0; 10]);
    let mut other = tensor(device, &[5.0; 10]);
    let (mut graph, y) = device
        .capture(|| {
            let y = work(&x)?;
            let theirs = std::thread::scope(|scope| {
                let run = || numbers(&work(&other).unwrap());
                scope.spawn(run).join().unwrap()
            });
            assert_eq!(theirs, [10.0; 10]);
            Ok(y)
        })
        .unwrap();
    other.overwrite(&x).unwrap();
    graph.launch().unwrap();
    assert_eq!(numbers(&y), [2.0; 10]);
    assert_eq!(numbers(&other), [1.0; 10]);
    assert!(emulated_cuda::reports().is_empty());
}
