//! Events and their times.

use std::time::{Duration, Instant};

use cudarc::driver::sys;

use super::support::{Code, code, context, fails, ok, place};

const TIMED: Option<sys::CUevent_flags> = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);

extern "C" fn sleep(_: *mut std::ffi::c_void) {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn the_time_between_two_events_is_that_of_the_work_between_them() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let clock = Instant::now();
    let start = stream.record_event(TIMED).unwrap();
    ok!(sys::cuLaunchHostFunc(stream.cu_stream(), Some(sleep), std::ptr::null_mut()));
    let end = stream.record_event(TIMED).unwrap();
    end.synchronize().unwrap();
    let elapsed = start.elapsed_ms(&end).unwrap();
    let most = clock.elapsed().as_secs_f32() * 1e3;
    assert!((20.0..=most).contains(&elapsed), "{elapsed} ms of at most {most}");
    // Backwards it is negative.
    assert_eq!(end.elapsed_ms(&start).unwrap(), -elapsed);
}

#[test]
fn streams_overlap_in_time_unless_one_waits_for_the_other() {
    let context = context();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let nap = |stream| ok!(sys::cuLaunchHostFunc(stream, Some(sleep), std::ptr::null_mut()));
    let both = |ordered: bool| {
        let clock = Instant::now();
        let start = first.record_event(TIMED).unwrap();
        nap(first.cu_stream());
        if ordered {
            second.join(&first).unwrap();
        }
        nap(second.cu_stream());
        first.join(&second).unwrap();
        let end = first.record_event(TIMED).unwrap();
        end.synchronize().unwrap();
        (start.elapsed_ms(&end).unwrap(), clock.elapsed().as_secs_f32() * 1e3)
    };
    // They ran one after the other, and the events do not show it.
    let (elapsed, most) = both(false);
    assert!((20.0..=most - 20.0).contains(&elapsed), "{elapsed} ms of {most}");
    let (elapsed, most) = both(true);
    assert!((40.0..=most).contains(&elapsed), "{elapsed} ms of {most}");
}

#[test]
fn what_was_not_reached_is_not_ready() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let event = stream.record_event(TIMED).unwrap();
    assert!(!event.try_is_complete().unwrap());
    assert!(event.try_is_complete().unwrap());
    let (first, second) = (stream.record_event(TIMED).unwrap(), stream.record_event(TIMED).unwrap());
    // SAFETY: the handles are live.
    let elapsed = |out| unsafe { sys::cuEventElapsedTime_v2(out, first.cu_event(), second.cu_event()) };
    let mut time = -1.0;
    assert_eq!(elapsed(&mut time), Code::CUDA_ERROR_NOT_READY);
    assert_eq!(elapsed(&mut time), Code::CUDA_SUCCESS);
    assert!(time >= 0.0);
}

#[test]
fn events_without_times_or_records_have_none() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let untimed = Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
    let (first, second) = (stream.record_event(untimed).unwrap(), stream.record_event(TIMED).unwrap());
    stream.synchronize().unwrap();
    assert_eq!(code(first.elapsed_ms(&second)), Code::CUDA_ERROR_INVALID_HANDLE);
    let never = context.new_event(TIMED).unwrap();
    never.synchronize().unwrap();
    assert!(never.try_is_complete().unwrap());
    let mut time = 0.0;
    fails!(
        sys::cuEventElapsedTime_v2(&mut time, second.cu_event(), never.cu_event()),
        CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn odd_flags_are_refused() {
    let context = context();
    let mut event = place();
    fails!(sys::cuEventCreate(&mut event, 8), CUDA_ERROR_INVALID_VALUE);
    // An event for other processes has to be without times, and then there is none.
    fails!(sys::cuEventCreate(&mut event, 4), CUDA_ERROR_INVALID_VALUE);
    fails!(sys::cuEventCreate(&mut event, 6), CUDA_ERROR_NOT_SUPPORTED);
    drop(context);
}
