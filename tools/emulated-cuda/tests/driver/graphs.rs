//! Graphs: captured and built.

use std::{
    ffi::c_void,
    ptr::{null, null_mut},
    sync::Mutex,
};

use cudarc::driver::{
    DevicePtrMut, LaunchConfig, PushKernelArg,
    sys::{self, CUgraphInstantiate_flags as Flags, CUstreamCaptureMode_enum::*},
};

use super::support::{Arguments, Code, code, context, fails, function, launch, ok, pinned, place};

#[test]
fn a_captured_graph_runs_when_it_is_launched_and_again() {
    let context = context();
    // SAFETY: everything is used on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let (add, scale) = (function(&context, "add"), function(&context, "scale"));
    let mut words = stream.clone_htod(&[1u32, 2, 3, 4]).unwrap();
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    for kernel in [&add, &scale] {
        // SAFETY: the kernels stay inside their words.
        unsafe { stream.launch_builder(kernel).arg(&mut words).arg(&4u32).launch(config) }.unwrap();
    }
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [1, 2, 3, 4], "a capture runs nothing");
    graph.upload().unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [6, 9, 12, 15]);
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [21, 30, 39, 48]);
    let mut count = 0;
    ok!(sys::cuGraphGetNodes(graph.cu_graph(), null_mut(), &mut count));
    assert_eq!(count, 2);
}

/// A stream that captures, and a second one.
fn capturing(mode: sys::CUstreamCaptureMode) -> [sys::CUstream; 2] {
    let mut streams = [place(); 2];
    for stream in &mut streams {
        ok!(sys::cuStreamCreate(stream, 1));
    }
    ok!(sys::cuStreamBeginCapture_v2(streams[0], mode));
    streams
}

fn event() -> sys::CUevent {
    let mut event = place();
    ok!(sys::cuEventCreate(&mut event, 2));
    event
}

#[test]
fn a_fork_and_its_join_become_edges() {
    let context = context();
    let mut address = 0;
    ok!(sys::cuMemAlloc_v2(&mut address, 16));
    let [first, second] = capturing(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    let (fork, join) = (event(), event());
    ok!(sys::cuMemsetD32Async(address, 1, 4, first));
    ok!(sys::cuEventRecord(fork, first));
    ok!(sys::cuStreamWaitEvent(second, fork, 0));
    ok!(sys::cuMemsetD32Async(address, 2, 2, second));
    ok!(sys::cuMemsetD32Async(address + 8, 3, 2, first));
    ok!(sys::cuEventRecord(join, second));
    ok!(sys::cuStreamWaitEvent(first, join, 0));
    ok!(sys::cuMemsetD32Async(address + 4, 4, 2, first));
    let (mut graph, mut status) = (place(), place());
    ok!(sys::cuStreamIsCapturing(second, &mut status));
    assert_eq!(status, sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    ok!(sys::cuStreamEndCapture(first, &mut graph));
    ok!(sys::cuStreamIsCapturing(second, &mut status));
    assert_eq!(status, sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE);
    let (mut edges, mut exec) = (0, place());
    ok!(sys::cuGraphGetEdges_v2(graph, null_mut(), null_mut(), null_mut(), &mut edges));
    // From the first to both in the middle, from both to the last.
    assert_eq!(edges, 4);
    ok!(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    ok!(sys::cuGraphLaunch(exec, second));
    ok!(sys::cuGraphExecDestroy(exec));
    let mut words = [0u32; 4];
    ok!(sys::cuMemcpyDtoHAsync_v2(words.as_mut_ptr().cast(), address, 16, second));
    assert_eq!(words, [2, 4, 4, 3]);
    ok!(sys::cuMemFree_v2(address));
    drop(context);
}

#[test]
fn what_a_capture_does_not_allow_ends_it() {
    let context = context();
    let mut graph = place();
    let ended = |stream, code: Code| {
        let mut graph = 1 as sys::CUgraph;
        // SAFETY: the place is the test's own.
        assert_eq!(unsafe { sys::cuStreamEndCapture(stream, &mut graph) }, code);
        assert!(graph.is_null());
    };
    // To wait for a stream that captures.
    let [stream, _] = capturing(CU_STREAM_CAPTURE_MODE_RELAXED);
    fails!(sys::cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    ended(stream, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // To wait for an event of outside.
    let [stream, other] = capturing(CU_STREAM_CAPTURE_MODE_RELAXED);
    let outside = event();
    ok!(sys::cuEventRecord(outside, other));
    fails!(sys::cuStreamWaitEvent(stream, outside, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    ended(stream, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // A fork that was not joined.
    let [stream, other] = capturing(CU_STREAM_CAPTURE_MODE_RELAXED);
    let fork = event();
    ok!(sys::cuEventRecord(fork, stream));
    fails!(sys::cuEventSynchronize(fork), CUDA_ERROR_CAPTURED_EVENT);
    ok!(sys::cuStreamWaitEvent(other, fork, 0));
    extern "C" fn nothing(_: *mut c_void) {}
    ok!(sys::cuLaunchHostFunc(other, Some(nothing), null_mut()));
    fails!(sys::cuStreamEndCapture(other, &mut graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    ended(stream, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // The same, without the attempt on the wrong stream.
    let [stream, other] = capturing(CU_STREAM_CAPTURE_MODE_RELAXED);
    ok!(sys::cuEventRecord(fork, stream));
    ok!(sys::cuStreamWaitEvent(other, fork, 0));
    ok!(sys::cuLaunchHostFunc(other, Some(nothing), null_mut()));
    ended(stream, Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    // Memory is allocated by calls that may synchronise.
    let [stream, _] = capturing(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    let mut address = 0;
    fails!(sys::cuMemAlloc_v2(&mut address, 4), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    ended(stream, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ended(stream, Code::CUDA_ERROR_ILLEGAL_STATE);
    // The legacy default stream would have to wait for a blocking stream that captures.
    let mut blocking = place();
    ok!(sys::cuStreamCreate(&mut blocking, 0));
    ok!(sys::cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    fails!(sys::cuLaunchHostFunc(null_mut(), Some(nothing), null_mut()), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    ended(blocking, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    fails!(
        sys::cuStreamBeginCapture_v2(null_mut(), CU_STREAM_CAPTURE_MODE_RELAXED),
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    drop(context);
}

#[test]
fn another_thread_cannot_end_a_capture() {
    let context = context();
    let [stream, _] = capturing(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    let (stream_address, own) = (stream as usize, context.clone());
    std::thread::spawn(move || {
        own.bind_to_thread().unwrap();
        let mut graph = place();
        fails!(
            sys::cuStreamEndCapture(stream_address as sys::CUstream, &mut graph),
            CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD
        );
        // Nor does a capture of one thread hinder the others.
        let mut address = 0;
        ok!(sys::cuMemAlloc_v2(&mut address, 4));
        ok!(sys::cuMemFree_v2(address));
    })
    .join()
    .unwrap();
    let mut graph = place();
    ok!(sys::cuStreamEndCapture(stream, &mut graph));
    ok!(sys::cuGraphDestroy(graph));
}

#[test]
fn a_graph_reads_pinned_and_pageable_memory_when_it_runs() {
    let context = context();
    let mut address = 0;
    ok!(sys::cuMemAlloc_v2(&mut address, 8));
    let locked = pinned(1);
    let mut pageable = [1u32];
    locked[0] = 1;
    let [stream, _] = capturing(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    ok!(sys::cuMemcpyHtoDAsync_v2(address, locked.as_ptr().cast(), 4, stream));
    ok!(sys::cuMemcpyHtoDAsync_v2(address + 4, pageable.as_ptr().cast(), 4, stream));
    let (mut graph, mut exec) = (place(), place());
    ok!(sys::cuStreamEndCapture(stream, &mut graph));
    ok!(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    (locked[0], pageable[0]) = (2, 3);
    ok!(sys::cuGraphLaunch(exec, stream));
    let mut words = [0u32; 2];
    ok!(sys::cuMemcpyDtoHAsync_v2(words.as_mut_ptr().cast(), address, 8, stream));
    assert_eq!((words, pageable[0]), ([2, 3], 3));
    ok!(sys::cuMemFreeHost(locked.as_mut_ptr().cast()));
    ok!(sys::cuMemFree_v2(address));
    drop(context);
}

type Log = Mutex<Vec<u32>>;
type Note<'a> = (&'a Log, u32);

extern "C" fn note(user: *mut c_void) {
    // SAFETY: the tests pass a log and a number, both alive until the graph has run.
    let (log, number) = unsafe { &*user.cast::<Note>() };
    log.lock().unwrap().push(*number);
}

#[test]
fn nodes_run_after_what_they_depend_on_and_in_no_order_that_a_program_expects() {
    let context = context();
    let log = Log::default();
    let notes: [Note; 3] = [1, 2, 3].map(|number| (&log, number));
    let mut graph = place();
    ok!(sys::cuGraphCreate(&mut graph, 0));
    let mut nodes = [place::<sys::CUgraphNode>(); 3];
    for (node, user) in nodes.iter_mut().zip(&notes) {
        let params =
            sys::CUDA_HOST_NODE_PARAMS { fn_: Some(note), userData: (&raw const *user).cast_mut().cast() };
        ok!(sys::cuGraphAddHostNode(node, graph, null(), 0, &params));
    }
    let run = || {
        let mut exec = place();
        // SAFETY: the handles are live, the place is the test's own.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) };
        if code == Code::CUDA_SUCCESS {
            ok!(sys::cuGraphLaunch(exec, null_mut()));
            ok!(sys::cuStreamSynchronize(null_mut()));
        }
        (code, std::mem::take(&mut *log.lock().unwrap()))
    };
    assert_eq!(run(), (Code::CUDA_SUCCESS, vec![3, 2, 1]));
    // 1 before 2, 2 before 3.
    ok!(sys::cuGraphAddDependencies_v2(graph, &nodes[0], &nodes[1], null(), 1));
    ok!(sys::cuGraphAddDependencies_v2(graph, &nodes[1], &nodes[2], null(), 1));
    assert_eq!(run(), (Code::CUDA_SUCCESS, vec![1, 2, 3]));
    let mut roots = 0;
    ok!(sys::cuGraphGetRootNodes(graph, null_mut(), &mut roots));
    assert_eq!(roots, 1);
    // And 3 before 1: never.
    ok!(sys::cuGraphAddDependencies_v2(graph, &nodes[2], &nodes[0], null(), 1));
    assert_eq!(run().0, Code::CUDA_ERROR_INVALID_VALUE);
    ok!(sys::cuGraphDestroyNode(nodes[2]));
    assert_eq!(run(), (Code::CUDA_SUCCESS, vec![1, 2]));
    ok!(sys::cuGraphDestroy(graph));
    fails!(sys::cuGraphDestroy(graph), CUDA_ERROR_INVALID_VALUE);
    drop(context);
}

/// Parameters of a kernel node.
fn kernel_params(function: sys::CUfunction, pointers: &mut [*mut c_void; 2]) -> sys::CUDA_KERNEL_NODE_PARAMS {
    sys::CUDA_KERNEL_NODE_PARAMS {
        func: function,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: pointers.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    }
}

#[test]
fn an_executable_graph_can_be_changed() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let (add, scale) = (function(&context, "add"), function(&context, "scale"));
    let mut words = stream.clone_htod(&[5u32, 6]).unwrap();
    let address = words.device_ptr_mut(&stream).0;
    let (mut graph, mut node, mut exec) = (place(), place(), place());
    ok!(sys::cuGraphCreate(&mut graph, 0));
    let (mut two, mut one) = (Arguments::new(address, 2), Arguments::new(address, 1));
    let (mut two, mut one) = (two.pointers(), one.pointers());
    ok!(sys::cuGraphAddKernelNode_v2(
        &mut node,
        graph,
        null(),
        0,
        &kernel_params(add.cu_function(), &mut two)
    ));
    ok!(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    let launch = || {
        ok!(sys::cuGraphLaunch(exec, stream.cu_stream()));
        stream.clone_dtoh(&words).unwrap()
    };
    assert_eq!(launch(), [6, 7]);
    // Another kernel with other arguments, in the executable graph only.
    let params = kernel_params(scale.cu_function(), &mut one);
    ok!(sys::cuGraphExecKernelNodeSetParams_v2(exec, node, &params));
    assert_eq!(launch(), [18, 7]);
    ok!(sys::cuGraphNodeSetEnabled(exec, node, 0));
    assert_eq!(launch(), [18, 7]);
    ok!(sys::cuGraphNodeSetEnabled(exec, node, 1));
    // Back to what the graph says, which nothing has changed.
    let mut result = place();
    ok!(sys::cuGraphExecUpdate_v2(exec, graph, &mut result));
    assert_eq!(launch(), [19, 8]);
    let mut params = place::<sys::CUDA_KERNEL_NODE_PARAMS>();
    ok!(sys::cuGraphKernelNodeGetParams_v2(node, &mut params));
    assert_eq!(params.func, add.cu_function());
    // SAFETY: the driver describes the two arguments of the kernel.
    let count = unsafe { (*params.kernelParams.add(1)).cast::<u32>().read_unaligned() };
    assert_eq!(count, 2);
    // A graph of another shape does not fit.
    ok!(sys::cuGraphAddEmptyNode(&mut node, graph, null(), 0));
    fails!(sys::cuGraphExecUpdate_v2(exec, graph, &mut result), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    assert_eq!(result.result, sys::CUgraphExecUpdateResult_enum::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    ok!(sys::cuGraphExecDestroy(exec));
    fails!(sys::cuGraphLaunch(exec, stream.cu_stream()), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn graphs_nest() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let add = function(&context, "add");
    let mut words = stream.clone_htod(&[0u32]).unwrap();
    let address = words.device_ptr_mut(&stream).0;
    let (mut graph, mut child, mut node, mut exec) = (place(), place(), place(), place());
    ok!(sys::cuGraphCreate(&mut child, 0));
    let mut arguments = Arguments::new(address, 1);
    let mut pointers = arguments.pointers();
    let params = kernel_params(add.cu_function(), &mut pointers);
    ok!(sys::cuGraphAddKernelNode_v2(&mut node, child, null(), 0, &params));
    ok!(sys::cuGraphCreate(&mut graph, 0));
    for _ in 0..3 {
        ok!(sys::cuGraphAddChildGraphNode(&mut node, graph, null(), 0, child));
    }
    ok!(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    ok!(sys::cuGraphLaunch(exec, stream.cu_stream()));
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [3]);
}

#[test]
fn odd_flags_are_refused() {
    let context = context();
    let stream = context.new_stream().unwrap();
    stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let flags = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
        | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    let ended = stream.end_capture(flags).map(|_| ());
    assert_eq!(code(ended), Code::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(null_mut(), 1, stream.cu_stream(), 0, 0), Code::CUDA_ERROR_INVALID_HANDLE);
}
