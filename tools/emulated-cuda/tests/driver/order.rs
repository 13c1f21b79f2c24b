//! When things run: lazily, in the order that streams and events give, and no earlier.

use std::{
    ffi::c_void,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use cudarc::driver::{CudaContext, sys};

use super::support::{Code, context, fails, ok, pinned, place};

/// A stream of a kind: 0 waits for the legacy default stream, 1 does not.
fn stream(flags: u32) -> sys::CUstream {
    let mut stream = place();
    ok!(sys::cuStreamCreate(&mut stream, flags));
    stream
}

fn device_words(n: usize) -> u64 {
    let mut address = 0;
    ok!(sys::cuMemAlloc_v2(&mut address, n * 4));
    address
}

fn read(address: u64) -> u32 {
    let mut value = 0u32;
    ok!(sys::cuMemcpyDtoH_v2((&raw mut value).cast(), address, 4));
    value
}

type Log = Mutex<Vec<u32>>;
type Note<'a> = (&'a Log, u32);

extern "C" fn note(user: *mut c_void) {
    // SAFETY: the tests pass a log and a number, both alive until the stream has run.
    let (log, number) = unsafe { &*user.cast::<Note>() };
    log.lock().unwrap().push(*number);
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_pageable_memory_when_it_is_submitted() {
    let context = context();
    let (stream, target) = (stream(1), device_words(2));
    let locked = pinned(1);
    locked[0] = 1;
    let mut pageable = [1u32];
    ok!(sys::cuMemcpyHtoDAsync_v2(target, locked.as_ptr().cast(), 4, stream));
    ok!(sys::cuMemcpyHtoDAsync_v2(target + 4, pageable.as_ptr().cast(), 4, stream));
    locked[0] = 2;
    pageable[0] = 2;
    ok!(sys::cuStreamSynchronize(stream));
    assert_eq!((read(target), read(target + 4), pageable[0]), (2, 1, 2));
    ok!(sys::cuMemFreeHost(locked.as_mut_ptr().cast()));
    ok!(sys::cuMemFree_v2(target));
    drop(context);
}

#[test]
fn pinned_memory_is_written_no_earlier_than_it_must_be() {
    let context = context();
    let (stream, source) = (stream(1), device_words(1));
    let locked = pinned(1);
    locked[0] = 7;
    ok!(sys::cuMemsetD32Async(source, 5, 1, stream));
    ok!(sys::cuMemcpyDtoHAsync_v2(locked.as_mut_ptr().cast(), source, 4, stream));
    // SAFETY: the memory is alive; the driver may write it in between, so the compiler must not assume
    // otherwise.
    let now = || unsafe { locked.as_ptr().read_volatile() };
    assert_eq!(now(), 7);
    fails!(sys::cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    // Who polls comes to an end.
    ok!(sys::cuStreamQuery(stream));
    assert_eq!(now(), 5);
    ok!(sys::cuMemFreeHost(locked.as_mut_ptr().cast()));
    ok!(sys::cuMemFree_v2(source));
    drop(context);
}

#[test]
fn a_synchronisation_runs_its_own_stream_only() {
    let context = context();
    let (first, second) = (stream(1), stream(1));
    let log = Log::default();
    let notes: [Note; 2] = [(&log, 1), (&log, 2)];
    let user = |i: usize| (&raw const notes[i]).cast_mut().cast::<c_void>();
    ok!(sys::cuLaunchHostFunc(first, Some(note), user(0)));
    ok!(sys::cuLaunchHostFunc(second, Some(note), user(1)));
    ok!(sys::cuStreamSynchronize(second));
    assert_eq!(*log.lock().unwrap(), [2]);
    ok!(sys::cuCtxSynchronize());
    assert_eq!(*log.lock().unwrap(), [2, 1]);
    drop(context);
}

#[test]
fn a_stream_waits_for_an_event_as_it_was_recorded_then() {
    let context = context();
    let (first, second) = (stream(1), stream(1));
    let log = Log::default();
    let notes: [Note; 3] = [(&log, 1), (&log, 2), (&log, 3)];
    let user = |i: usize| (&raw const notes[i]).cast_mut().cast::<c_void>();
    let mut event = place();
    ok!(sys::cuEventCreate(&mut event, 2));
    ok!(sys::cuLaunchHostFunc(first, Some(note), user(0)));
    ok!(sys::cuEventRecord(event, first));
    ok!(sys::cuLaunchHostFunc(first, Some(note), user(1)));
    ok!(sys::cuStreamWaitEvent(second, event, 0));
    // Recorded again later: the wait above does not mean this.
    ok!(sys::cuEventRecord(event, first));
    ok!(sys::cuLaunchHostFunc(second, Some(note), user(2)));
    ok!(sys::cuEventDestroy_v2(event));
    ok!(sys::cuStreamSynchronize(second));
    assert_eq!(*log.lock().unwrap(), [1, 3]);
    ok!(sys::cuStreamDestroy_v2(first));
    assert_eq!(*log.lock().unwrap(), [1, 3, 2]);
    drop(context);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    let context = context();
    let (blocking, free) = (stream(0), stream(1));
    let log = Log::default();
    let notes: [Note; 4] = [(&log, 1), (&log, 2), (&log, 3), (&log, 4)];
    let user = |i: usize| (&raw const notes[i]).cast_mut().cast::<c_void>();
    let legacy = std::ptr::null_mut();
    ok!(sys::cuLaunchHostFunc(blocking, Some(note), user(0)));
    ok!(sys::cuLaunchHostFunc(free, Some(note), user(1)));
    ok!(sys::cuLaunchHostFunc(legacy, Some(note), user(2)));
    ok!(sys::cuLaunchHostFunc(blocking, Some(note), user(3)));
    ok!(sys::cuStreamSynchronize(blocking));
    assert_eq!(*log.lock().unwrap(), [1, 3, 4]);
    ok!(sys::cuStreamSynchronize(free));
    assert_eq!(*log.lock().unwrap(), [1, 3, 4, 2]);
    drop(context);
}

#[test]
fn freeing_memory_waits_for_whoever_may_use_it() {
    let context = context();
    let (stream, address) = (stream(1), device_words(1));
    let locked = pinned(1);
    ok!(sys::cuMemsetD32Async(address, 9, 1, stream));
    ok!(sys::cuMemcpyDtoHAsync_v2(locked.as_mut_ptr().cast(), address, 4, stream));
    ok!(sys::cuMemFree_v2(address));
    assert_eq!(locked[0], 9);
    ok!(sys::cuMemFreeHost(locked.as_mut_ptr().cast()));
    drop(context);
}

#[test]
fn a_full_queue_runs_by_itself() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: *mut c_void) {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
    let context = context();
    let stream = stream(1);
    for _ in 0..1500 {
        ok!(sys::cuLaunchHostFunc(stream, Some(count), std::ptr::null_mut()));
    }
    let before = CALLS.load(Ordering::Relaxed);
    assert!((1..1500).contains(&before), "{before}");
    ok!(sys::cuStreamSynchronize(stream));
    assert_eq!(CALLS.load(Ordering::Relaxed), 1500);
    drop(context);
}

#[test]
fn host_functions_may_not_call_the_driver_but_other_threads_may_meanwhile() {
    static SEEN: Mutex<Vec<Code>> = Mutex::new(Vec::new());
    extern "C" fn call(user: *mut c_void) {
        let mut free = 0;
        let mut total = 0;
        // SAFETY: the places are this function's own.
        let own = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        let context = user as usize;
        let other = std::thread::spawn(move || {
            ok!(sys::cuCtxSetCurrent(context as sys::CUcontext));
            let (mut free, mut total) = (0, 0);
            // SAFETY: as above.
            unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }
        });
        SEEN.lock().unwrap().extend([own, other.join().unwrap()]);
    }
    let context = context();
    let stream = stream(1);
    ok!(sys::cuLaunchHostFunc(stream, Some(call), context.cu_ctx().cast()));
    ok!(sys::cuStreamSynchronize(stream));
    assert_eq!(*SEEN.lock().unwrap(), [Code::CUDA_ERROR_NOT_PERMITTED, Code::CUDA_SUCCESS]);
}

#[test]
fn a_query_does_not_wait_for_a_host_function() {
    extern "C" fn hold(user: *mut c_void) {
        // SAFETY: the test passes a gate that outlives the stream's work.
        drop(unsafe { &*user.cast::<Mutex<()>>() }.lock());
    }
    let context = context();
    let (stream, gate) = (stream(1), Mutex::new(()));
    let held = gate.lock().unwrap();
    ok!(sys::cuLaunchHostFunc(stream, Some(hold), (&raw const gate).cast_mut().cast()));
    for _ in 0..100 {
        fails!(sys::cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    }
    drop(held);
    ok!(sys::cuStreamSynchronize(stream));
    ok!(sys::cuStreamQuery(stream));
    drop(context);
}

#[test]
fn two_threads_share_a_context() {
    let context = context();
    let threads: Vec<_> = (0..2u32)
        .map(|number| {
            let context: std::sync::Arc<CudaContext> = context.clone();
            std::thread::spawn(move || {
                context.bind_to_thread().unwrap();
                let stream = context.new_stream().unwrap();
                for round in 0..50u32 {
                    let data: Vec<u32> = (0..100).map(|i| i ^ round << 8 ^ number << 20).collect();
                    let there = stream.clone_htod(&data).unwrap();
                    assert_eq!(stream.clone_dtoh(&there).unwrap(), data);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
