//! Events.

use std::time::Instant;

use super::{
    context::Context,
    ffi::{DefaultStream, Out, exports},
    graph::Captured,
    handles::Id,
    queue::Point,
    state::{Current, current},
    status::{Outcome, Status},
    stream::{Stream, on_stream},
    work::Work,
};

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

/// An event.
#[derive(Clone)]
pub struct Event {
    /// Its context.
    pub context: Id<Context>,
    /// Whether it takes no times.
    pub untimed: bool,
    /// Where it was recorded last.
    pub recorded: Option<Point>,
    /// When that was reached.
    pub time: Option<Instant>,
    /// Where it was recorded, if that was in a capture.
    pub captured: Option<Captured>,
}

/// A call on an event that can be waited for.
fn on_event(event: Id<Event>) -> Outcome<(Current, Event)> {
    let current = current()?;
    let found = current.state.events.get(event)?.clone();
    if found.captured.is_some() {
        return Err(Status::CAPTURED_EVENT);
    }
    Ok((current, found))
}

/// Runs what an event waits for, if anything.
fn wait(current: Current, event: &Event) -> Outcome {
    let Current { driver, mut state, .. } = current;
    if let Some(point) = event.recorded {
        state = driver.drive(state, point);
    }
    state.healthy(event.context)
}

fn record(id: Id<Event>, stream: Id<Stream>, default: DefaultStream) -> Outcome {
    let (mut current, stream) = on_stream(stream, default)?;
    let owner = current.state.events.get(id)?.context;
    if owner != current.state.streams.get(stream)?.context {
        return Err(Status::INVALID_HANDLE);
    }
    if let Some(captured) = current.state.capture_record(stream)? {
        current.state.events.get_mut(id)?.captured = Some(captured);
        return Ok(());
    }
    let (mut state, point) = current.driver.submit(current.state, stream, Work::Record(id));
    let point = point?;
    let event = state.events.get_mut(id)?;
    (event.recorded, event.captured) = (point, None);
    Ok(())
}

fn elapsed(out: Out<f32>, start: Id<Event>, end: Id<Event>) -> Outcome {
    out.check()?;
    let (current, first) = on_event(start)?;
    let last = current.state.events.get(end)?.clone();
    if last.captured.is_some() {
        return Err(Status::CAPTURED_EVENT);
    }
    let (Some(from), Some(to)) = (first.recorded, last.recorded) else { return Err(Status::INVALID_HANDLE) };
    if first.untimed || last.untimed {
        return Err(Status::INVALID_HANDLE);
    }
    if !(current.state.reached(from) && current.state.reached(to)) {
        let state = current.driver.poll(current.state, from);
        let state = current.driver.poll(state, to);
        state.healthy(first.context)?;
        return Err(Status::NOT_READY);
    }
    let (Some(from), Some(to)) = (first.time, last.time) else { return Err(Status::INVALID_HANDLE) };
    let seconds = match to.checked_duration_since(from) {
        Some(later) => later.as_secs_f64(),
        None => -from.duration_since(to).as_secs_f64(),
    };
    out.set((seconds * 1e3) as f32)
}

exports! {
    /// Makes an event.
    fn cuEventCreate(out: Out<Id<Event>>, flags: u32) {
        out.check()?;
        let mut current = current()?;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            let legal = flags & DISABLE_TIMING != 0;
            return Err(if legal { Status::NOT_SUPPORTED } else { Status::INVALID_VALUE });
        }
        let untimed = flags & DISABLE_TIMING != 0;
        let event = Event { context: current.context, untimed, recorded: None, time: None, captured: None };
        out.set(current.state.events.insert(event))
    }

    /// Ends an event; streams that wait for it wait on.
    alias(cuEventDestroy)
    fn cuEventDestroy_v2(event: Id<Event>) {
        current()?.state.events.remove(event).map(drop)
    }

    /// Marks the end of what a stream has been given so far.
    per_thread(cuEventRecord_ptsz, default)
    fn cuEventRecord(event: Id<Event>, stream: Id<Stream>) {
        record(event, stream, default)
    }

    /// As `cuEventRecord`; recording from inside a graph is refused.
    per_thread(cuEventRecordWithFlags_ptsz, default)
    fn cuEventRecordWithFlags(event: Id<Event>, stream: Id<Stream>, flags: u32) {
        match flags {
            0 => record(event, stream, default),
            1 => Err(Status::NOT_SUPPORTED),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Whether an event has been reached; if not, runs what it waits for, so that the next query says yes.
    fn cuEventQuery(event: Id<Event>) {
        let (current, event) = on_event(event)?;
        let Some(point) = event.recorded else { return Ok(()) };
        let ready = current.state.reached(point);
        current.driver.poll(current.state, point).healthy(event.context)?;
        if ready { Ok(()) } else { Err(Status::NOT_READY) }
    }

    /// Runs what an event waits for.
    fn cuEventSynchronize(event: Id<Event>) {
        let (current, event) = on_event(event)?;
        wait(current, &event)
    }

    /// Milliseconds between two events.
    alias(cuEventElapsedTime)
    fn cuEventElapsedTime_v2(out: Out<f32>, start: Id<Event>, end: Id<Event>) {
        elapsed(out, start, end)
    }
}
