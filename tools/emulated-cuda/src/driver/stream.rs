//! Streams.

use std::ffi::c_void;

use super::{
    context::Context,
    device::Ordinal,
    event::Event,
    ffi::{DefaultStream, Out, exports},
    graph::Capture,
    handles::Id,
    queue::{Point, Queue},
    state::{Current, Guard, State, current},
    status::{Outcome, Status},
    work::{HostCall, StreamCallback, Work},
};

/// The least priority; larger numbers are lower.
pub const LEAST_PRIORITY: i32 = 0;
/// The greatest priority, as on sm_80.
pub const GREATEST_PRIORITY: i32 = -5;
const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// How a stream stands to the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is that stream.
    Legacy,
    /// Each waits for what the other was given earlier.
    Blocking,
    /// They do not wait for each other.
    NonBlocking,
}

/// A stream.
pub struct Stream {
    /// Its context.
    pub context: Id<Context>,
    /// How it stands to the legacy default stream.
    pub kind: Kind,
    /// Its priority, which changes nothing here.
    pub priority: i32,
    /// What waits to run.
    pub queue: Queue,
    /// The capture that it takes part in.
    pub capture: Option<Id<Capture>>,
}

impl Stream {
    fn new(context: Id<Context>, kind: Kind, priority: i32) -> Self {
        Self { context, kind, priority, queue: Queue::default(), capture: None }
    }

    /// The legacy default stream of a context.
    pub fn legacy(context: Id<Context>) -> Self {
        Self::new(context, Kind::Legacy, LEAST_PRIORITY)
    }
}

impl State {
    /// The stream that a caller means: null and the two fixed handles depend on the current context and
    /// thread.
    pub fn stream(
        &mut self,
        handle: Id<Stream>,
        default: DefaultStream,
        context: Id<Context>,
    ) -> Outcome<Id<Stream>> {
        let per_thread = match handle.raw() {
            0 => default == DefaultStream::PerThread,
            LEGACY => false,
            PER_THREAD => true,
            _ => {
                let owner = self.streams.get(handle)?.context;
                self.healthy(owner)?;
                return Ok(handle);
            }
        };
        if !per_thread {
            return Ok(self.context(context)?.legacy);
        }
        let key = (context, std::thread::current().id());
        if let Some(&stream) = self.per_thread_streams.get(&key) {
            return Ok(stream);
        }
        let stream = self.streams.insert(Stream::new(context, Kind::Blocking, LEAST_PRIORITY));
        self.per_thread_streams.insert(key, stream);
        Ok(stream)
    }
}

/// A call on a stream: the current context's state and the stream that is meant.
pub fn on_stream(handle: Id<Stream>, default: DefaultStream) -> Outcome<(Current, Id<Stream>)> {
    let mut current = current()?;
    let stream = current.state.stream(handle, default, current.context)?;
    Ok((current, stream))
}

impl State {
    /// The points at which a stream has run to its end: on the legacy default stream, all that it waits for
    /// too.
    fn ends(&self, stream: Id<Stream>) -> Outcome<Vec<Point>> {
        let found = self.streams.get(stream)?;
        let (legacy, context) = (found.kind == Kind::Legacy, found.context);
        let others =
            self.streams.iter().filter(|(_, s)| legacy && s.context == context && s.kind == Kind::Blocking);
        others.map(|(id, _)| id).chain([stream]).map(|id| self.end_of(id)).collect()
    }
}

/// Runs everything on a stream.
fn finish(current: Current, stream: Id<Stream>) -> Outcome {
    let Current { driver, mut state, .. } = current;
    state.refuse_in_capture(stream)?;
    let context = state.streams.get(stream)?.context;
    for end in state.ends(stream)? {
        state = driver.drive(state, end);
    }
    state.healthy(context)
}

/// Whether everything on a stream has run; if not, sees to it that it does.
fn query(current: Current, stream: Id<Stream>) -> Outcome {
    let Current { driver, mut state, .. } = current;
    state.refuse_in_capture(stream)?;
    let context = state.streams.get(stream)?.context;
    let ends = state.ends(stream)?;
    let ready = ends.iter().all(|&end| state.reached(end));
    for end in ends {
        state = driver.poll(state, end);
    }
    state.healthy(context)?;
    if ready { Ok(()) } else { Err(Status::NOT_READY) }
}

/// Puts work on a stream.
pub fn submit(handle: Id<Stream>, default: DefaultStream, work: Work) -> Outcome {
    let (current, stream) = on_stream(handle, default)?;
    let (_state, point) = current.driver.submit(current.state, stream, work);
    point.map(drop)
}

fn create(out: Out<Id<Stream>>, flags: u32, priority: i32) -> Outcome {
    out.check()?;
    let kind = match flags {
        0 => Kind::Blocking,
        NON_BLOCKING => Kind::NonBlocking,
        _ => return Err(Status::INVALID_VALUE),
    };
    let mut current = current()?;
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let context = current.context;
    out.set(current.state.streams.insert(Stream::new(context, kind, priority)))
}

/// A property of a stream, for the functions that return one.
fn property<T>(
    out: Out<T>,
    handle: Id<Stream>,
    default: DefaultStream,
    read: impl FnOnce(&Guard, Id<Stream>) -> Outcome<T>,
) -> Outcome {
    let (current, stream) = on_stream(handle, default)?;
    out.set(read(&current.state, stream)?)
}

exports! {
    /// Makes a stream.
    fn cuStreamCreate(out: Out<Id<Stream>>, flags: u32) {
        create(out, flags, LEAST_PRIORITY)
    }

    /// Makes a stream with a priority.
    fn cuStreamCreateWithPriority(out: Out<Id<Stream>>, flags: u32, priority: i32) {
        create(out, flags, priority)
    }

    /// Ends a stream, once it has run to its end.
    alias(cuStreamDestroy)
    fn cuStreamDestroy_v2(stream: Id<Stream>) {
        let current = current()?;
        let mut state = current.state;
        let found = state.streams.get(stream)?;
        if found.kind == Kind::Legacy || state.per_thread_streams.values().any(|&s| s == stream) {
            return Err(Status::INVALID_HANDLE);
        }
        if found.capture.is_some() {
            state.invalidate_capture(stream);
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        state = current.driver.drive_stream(state, stream);
        state.streams.remove(stream).map(drop)
    }

    /// Whether everything on a stream has run; if not, runs it, so that the next query says yes.
    per_thread(cuStreamQuery_ptsz, default)
    fn cuStreamQuery(stream: Id<Stream>) {
        let (current, stream) = on_stream(stream, default)?;
        query(current, stream)
    }

    /// Runs everything on a stream.
    per_thread(cuStreamSynchronize_ptsz, default)
    fn cuStreamSynchronize(stream: Id<Stream>) {
        let (current, stream) = on_stream(stream, default)?;
        finish(current, stream)
    }

    /// Lets a stream wait for an event.
    per_thread(cuStreamWaitEvent_ptsz, default)
    fn cuStreamWaitEvent(stream: Id<Stream>, event: Id<Event>, flags: u32) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        let (mut current, stream) = on_stream(stream, default)?;
        let event = current.state.events.get(event)?.clone();
        if current.state.capture_wait(stream, &event)? {
            return Ok(());
        }
        match event.recorded {
            Some(point) if !current.state.reached(point) => {
                current.state.enqueue(stream, Work::Nothing, vec![point]).map(drop)
            }
            // An event that was never recorded has nothing to wait for either.
            _ => Ok(()),
        }
    }

    /// Runs a host function once everything before it has run, whatever became of it.
    per_thread(cuStreamAddCallback_ptsz, default)
    fn cuStreamAddCallback(
        stream: Id<Stream>,
        callback: Option<StreamCallback>,
        user: *mut c_void,
        flags: u32,
    ) {
        let callback = callback.filter(|_| flags == 0).ok_or(Status::INVALID_VALUE)?;
        submit(stream, default, Work::Callback(stream, callback, user as usize))
    }

    /// Runs a host function once everything before it has run.
    per_thread(cuLaunchHostFunc_ptsz, default)
    fn cuLaunchHostFunc(stream: Id<Stream>, function: Option<super::work::HostFunction>, user: *mut c_void) {
        let function = function.ok_or(Status::INVALID_VALUE)?;
        submit(stream, default, Work::Host(HostCall { function, user: user as usize }))
    }

    /// The context of a stream.
    per_thread(cuStreamGetCtx_ptsz, default)
    fn cuStreamGetCtx(stream: Id<Stream>, out: Out<Id<Context>>) {
        property(out, stream, default, |state, stream| Ok(state.streams.get(stream)?.context))
    }

    /// The context of a stream, which is no green one.
    per_thread(cuStreamGetCtx_v2_ptsz, default)
    fn cuStreamGetCtx_v2(stream: Id<Stream>, out: Out<Id<Context>>, green: Out<u64>) {
        property(out, stream, default, |state, stream| Ok(state.streams.get(stream)?.context))?;
        green.offer(0);
        Ok(())
    }

    /// The green context of a stream: none.
    fn cuStreamGetGreenCtx(stream: Id<Stream>, out: Out<u64>) {
        property(out, stream, DefaultStream::Legacy, |_, _| Ok(0))
    }

    /// The device of a stream.
    per_thread(cuStreamGetDevice_ptsz, default)
    fn cuStreamGetDevice(stream: Id<Stream>, out: Out<Ordinal>) {
        property(out, stream, default, |_, _| Ok(0))
    }

    /// The flags of a stream.
    per_thread(cuStreamGetFlags_ptsz, default)
    fn cuStreamGetFlags(stream: Id<Stream>, out: Out<u32>) {
        property(out, stream, default, |state, stream| {
            Ok(if state.streams.get(stream)?.kind == Kind::NonBlocking { NON_BLOCKING } else { 0 })
        })
    }

    /// The priority of a stream.
    per_thread(cuStreamGetPriority_ptsz, default)
    fn cuStreamGetPriority(stream: Id<Stream>, out: Out<i32>) {
        property(out, stream, default, |state, stream| Ok(state.streams.get(stream)?.priority))
    }

    /// A number that no other stream of the process has.
    per_thread(cuStreamGetId_ptsz, default)
    fn cuStreamGetId(stream: Id<Stream>, out: Out<u64>) {
        property(out, stream, default, |_, stream| Ok(stream.raw()))
    }

    /// Gives managed memory to a stream. Every stream can reach it anyhow.
    per_thread(cuStreamAttachMemAsync_ptsz, default)
    fn cuStreamAttachMemAsync(stream: Id<Stream>, address: u64, _length: usize, flags: u32) {
        let (current, _) = on_stream(stream, default)?;
        let found = current.driver.device.memory.find(address);
        let managed = found.is_some_and(|a| a.kind == crate::machine::memory::AllocationKind::Managed);
        if managed && matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
}
