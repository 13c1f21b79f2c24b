//! How streams run: lazily.
//!
//! An operation on a stream goes into the stream's queue and nothing happens. It runs when something needs it
//! to have run: a synchronisation with its stream, event or context, a copy to pageable host memory, a
//! blocking copy, the freeing of memory, the end of its stream or context. Then the calling thread runs the
//! queue, in order, up to what is needed and no further. An operation may wait for others first: a wait for
//! an event, the legacy default stream for every blocking stream and they for it. What it waits for was
//! always submitted earlier, so there are no cycles.
//!
//! So work on two streams that nothing orders runs in an order that a program cannot guess: what is not
//! needed yet runs late, and where everything is needed, the youngest stream runs first. A program that
//! forgot to synchronise reads old data every time, where hardware would show the error once in a while.
//! Pinned host memory is read and written when a copy runs, not when it is submitted.
//!
//! A query of something that has not finished answers "not ready", and runs it: who polls comes to an end.
//! Host functions may wait for the program, so a query leaves them to a thread of their own.
//!
//! The times of events are those of a device on which all streams run at once: an operation starts when it was
//! submitted, the one before it in its stream has ended and so has all that it waits for; it lasts as long as
//! it took here. So operations that nothing orders overlap in time, although they ran one after the other.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, PoisonError},
    time::Instant,
};

use super::{
    context::Context,
    handles::Id,
    state::{Driver, Guard, State},
    status::Outcome,
    stream::{Kind, Stream},
    work::Work,
};

/// Operations that a stream holds before a submission runs them first. Hardware has a limit of this size too.
const QUEUE_LIMIT: usize = 1024;
/// Bytes of staged copies that a stream holds before a submission runs them first.
const STAGED_LIMIT: usize = 256 << 20;

/// A point in a stream: the operation with this ticket, and everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The stream.
    pub stream: Id<Stream>,
    /// Ticket of the operation.
    pub ticket: u64,
}

/// When an operation ended, once it has.
type Ended = Arc<OnceLock<Instant>>;

/// What an operation waits for.
struct Wait {
    point: Point,
    ended: Ended,
}

/// An operation in a queue.
pub struct Operation {
    /// Its place among all operations of the process.
    ticket: u64,
    /// When it was submitted.
    submitted: Instant,
    /// What must have run first.
    waits: Vec<Wait>,
    /// When it ended.
    ended: Ended,
    /// What it does.
    work: Work,
}

/// A stream's queue.
#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Operation>,
    /// Ticket of the last operation that was put in.
    last: u64,
    /// Ticket of the last operation that has run.
    done: u64,
    /// The operation that a thread runs right now: when it ended.
    running: Option<Ended>,
    /// When the last operation that has run ended.
    clock: Option<Instant>,
    staged: usize,
}

impl Queue {
    /// Where it will be written when an operation that has not finished ended.
    fn ended(&self, ticket: u64) -> Option<Ended> {
        match self.waiting.binary_search_by_key(&ticket, |operation| operation.ticket) {
            Ok(index) => Some(self.waiting[index].ended.clone()),
            Err(_) => self.running.clone(),
        }
    }
}

impl State {
    /// Whether a point has been reached. A stream that is gone was run to its end.
    pub fn reached(&self, point: Point) -> bool {
        self.streams.get(point.stream).map_or(true, |stream| stream.queue.done >= point.ticket)
    }

    /// The last point of a stream so far.
    pub fn end_of(&self, stream: Id<Stream>) -> Outcome<Point> {
        Ok(Point { stream, ticket: self.streams.get(stream)?.queue.last })
    }

    /// Puts work into a stream's queue, behind the points that it has to wait for.
    pub fn enqueue(&mut self, id: Id<Stream>, work: Work, mut waits: Vec<Point>) -> Outcome<Point> {
        let stream = self.streams.get(id)?;
        match stream.kind {
            Kind::Legacy => {
                let context = stream.context;
                let others =
                    self.streams.iter().filter(|(_, s)| s.context == context && s.kind == Kind::Blocking);
                waits.extend(others.map(|(stream, s)| Point { stream, ticket: s.queue.last }));
            }
            Kind::Blocking => {
                let legacy = self.context(stream.context)?.legacy;
                waits.push(self.end_of(legacy)?);
            }
            Kind::NonBlocking => {}
        }
        waits.retain(|&point| !self.reached(point));
        let ended = |point: Point| self.streams.get(point.stream).ok()?.queue.ended(point.ticket);
        let waits =
            waits.into_iter().map(|point| Wait { point, ended: ended(point).unwrap_or_default() }).collect();
        self.tickets += 1;
        let ticket = self.tickets;
        let queue = &mut self.streams.get_mut(id)?.queue;
        queue.staged += work.staged();
        let (submitted, ended) = (Instant::now(), Ended::default());
        queue.waiting.push_back(Operation { ticket, submitted, waits, ended, work });
        queue.last = ticket;
        Ok(Point { stream: id, ticket })
    }

    fn overfull(&self, id: Id<Stream>) -> bool {
        let queue = self.streams.get(id).map(|stream| &stream.queue);
        queue.is_ok_and(|queue| queue.waiting.len() > QUEUE_LIMIT || queue.staged > STAGED_LIMIT)
    }
}

/// Whether a caller waits for host functions and for other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Waits,
    Polls,
}

/// What the thread that runs the queues finds to do next.
enum Next {
    Reached,
    Running,
    Wait(Point),
    Run(Operation, Id<Context>),
}

impl Driver {
    /// Runs what it takes to reach a point.
    pub fn drive(&'static self, state: Guard, target: Point) -> Guard {
        self.advance(state, target, Patience::Waits)
    }

    /// As [`Driver::drive`] for queries, which may not wait for the program itself: where a host function is
    /// next, another thread goes on with it.
    pub fn poll(&'static self, state: Guard, target: Point) -> Guard {
        self.advance(state, target, Patience::Polls)
    }

    fn advance(&'static self, mut state: Guard, target: Point, patience: Patience) -> Guard {
        let mut targets = vec![target];
        while let Some(&point) = targets.last() {
            match next(&mut state, point) {
                Next::Reached => drop(targets.pop()),
                Next::Running if patience == Patience::Polls => return state,
                Next::Running => state = self.wait(state),
                Next::Wait(earlier) => targets.push(earlier),
                Next::Run(operation, context)
                    if patience == Patience::Polls && operation.work.calls_host() =>
                {
                    std::thread::spawn(move || {
                        let state = self.run(self.lock(), point.stream, context, operation);
                        drop(self.drive(state, target));
                    });
                    return state;
                }
                Next::Run(operation, context) => state = self.run(state, point.stream, context, operation),
            }
        }
        state
    }

    /// Runs an operation with the lock released, so that a host function that waits for another thread does
    /// not block it.
    fn run(&'static self, state: Guard, id: Id<Stream>, context: Id<Context>, operation: Operation) -> Guard {
        let sticky = state.healthy(context).err();
        let before = state.streams.get(id).ok().and_then(|stream| stream.queue.clock);
        let waited = operation.waits.iter().filter_map(|wait| wait.ended.get().copied());
        let mut clock = waited.chain(before).fold(operation.submitted, Instant::max);
        drop(state);
        let failure = operation.work.run(self, sticky, &mut clock).err();
        let mut state = self.lock();
        // Only the thread that runs an operation ends it, and does so once.
        let _ = operation.ended.set(clock);
        if let Some(failure) = failure
            && let Ok(context) = state.context_mut(context)
        {
            context.sticky.get_or_insert(failure);
        }
        if let Ok(stream) = state.streams.get_mut(id) {
            stream.queue.done = operation.ticket;
            stream.queue.running = None;
            stream.queue.clock = Some(clock);
        }
        self.progress.notify_all();
        state
    }

    /// Runs everything that a stream holds.
    pub fn drive_stream(&'static self, state: Guard, stream: Id<Stream>) -> Guard {
        match state.end_of(stream) {
            Ok(end) => self.drive(state, end),
            Err(_) => state,
        }
    }

    /// Runs everything that the streams of a context hold, the youngest stream first.
    pub fn drive_context(&'static self, mut state: Guard, context: Id<Context>) -> Guard {
        let streams = state.streams.iter().rev().filter(|(_, stream)| stream.context == context);
        let ends: Vec<_> =
            streams.map(|(id, stream)| Point { stream: id, ticket: stream.queue.last }).collect();
        for end in ends {
            state = self.drive(state, end);
        }
        state
    }

    /// Puts work on a stream: into its queue, or into the graph that it captures. The point where it will
    /// have run; none in a capture.
    pub fn submit(
        &'static self,
        mut state: Guard,
        stream: Id<Stream>,
        work: Work,
    ) -> (Guard, Outcome<Option<Point>>) {
        match state.capture_work(stream, &work) {
            Ok(false) => {}
            Ok(true) => return (state, Ok(None)),
            Err(status) => return (state, Err(status)),
        }
        let point = state.enqueue(stream, work, Vec::new());
        if state.overfull(stream) {
            state = self.drive_stream(state, stream);
        }
        (state, point.map(Some))
    }

    /// As [`Driver::submit`], and runs it before it returns. A capturing stream refuses.
    pub fn submit_and_wait(&'static self, mut state: Guard, stream: Id<Stream>, work: Work) -> Outcome {
        state.refuse_in_capture(stream)?;
        let context = state.streams.get(stream)?.context;
        let (submitted, point) = self.submit(state, stream, work);
        state = submitted;
        if let Some(point) = point? {
            state = self.drive(state, point);
        }
        state.healthy(context)
    }

    /// The device work of one operation at a time, which moves the clock of its stream on.
    pub fn engine<T>(&self, clock: &mut Instant, work: impl FnOnce() -> T) -> T {
        let _turn = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        timed(clock, work)
    }
}

/// Moves a clock on by the time that work takes.
pub fn timed<T>(clock: &mut Instant, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *clock += start.elapsed();
    result
}

fn next(state: &mut State, point: Point) -> Next {
    if state.reached(point) {
        return Next::Reached;
    }
    let Ok(stream) = state.streams.get(point.stream) else { return Next::Reached };
    if stream.queue.running.is_some() {
        return Next::Running;
    }
    let waits = stream.queue.waiting.front().map_or(&[][..], |first| first.waits.as_slice());
    if let Some(unmet) = waits.iter().find(|wait| !state.reached(wait.point)) {
        return Next::Wait(unmet.point);
    }
    let Ok(stream) = state.streams.get_mut(point.stream) else { return Next::Reached };
    match stream.queue.waiting.pop_front() {
        Some(operation) => {
            stream.queue.running = Some(operation.ended.clone());
            stream.queue.staged -= operation.work.staged();
            Next::Run(operation, stream.context)
        }
        None => Next::Reached,
    }
}
