//! Stream capture: what is put on a stream becomes a graph instead of running.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    thread::ThreadId,
};

use super::{EdgeData, Graph, Node};
use crate::driver::{
    context::Context,
    event::Event,
    ffi::{In, Out, exports},
    handles::Id,
    state::State,
    status::{Outcome, Status},
    stream::{Kind, Stream, on_stream},
    work::Work,
};

/// How far a capture forbids calls that may synchronise: to every thread, to its own, to none.
const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;
/// `CUstreamCaptureStatus`
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

/// A capture in progress.
pub struct Capture {
    /// Its context.
    pub context: Id<Context>,
    /// The graph so far.
    graph: Id<Graph>,
    /// The stream that it began on.
    origin: Id<Stream>,
    mode: u32,
    thread: ThreadId,
    /// For each stream that takes part, the nodes that its next piece of work waits for.
    frontiers: BTreeMap<Id<Stream>, BTreeSet<Id<Node>>>,
    invalid: bool,
}

/// Where an event was recorded in a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    capture: Id<Capture>,
    nodes: BTreeSet<Id<Node>>,
}

thread_local! {
    /// How much of other captures this thread heeds.
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

impl State {
    /// The capture that a stream takes part in, if it is in order.
    fn capture_of(&mut self, stream: Id<Stream>) -> Outcome<Option<(Id<Capture>, &mut Capture)>> {
        let found = self.streams.get(stream)?;
        if found.kind == Kind::Legacy {
            // It would have to wait for the streams that are being captured.
            let context = found.context;
            let blocking = |s: &Stream| s.context == context && s.kind == Kind::Blocking;
            let capturing = self.streams.iter().find(|(_, s)| blocking(s) && s.capture.is_some());
            if let Some(capturing) = capturing.map(|(id, _)| id) {
                self.invalidate_capture(capturing);
                return Err(Status::STREAM_CAPTURE_IMPLICIT);
            }
            return Ok(None);
        }
        let Some(id) = found.capture else { return Ok(None) };
        let capture = self.captures.get_mut(id)?;
        if capture.invalid { Err(Status::STREAM_CAPTURE_INVALIDATED) } else { Ok(Some((id, capture))) }
    }

    /// Makes work part of the graph that a stream captures. Whether it captures one.
    pub fn capture_work(&mut self, stream: Id<Stream>, work: &Work) -> Outcome<bool> {
        let Some((_, capture)) = self.capture_of(stream)? else { return Ok(false) };
        if matches!(work, Work::Callback(..) | Work::Free(_) | Work::Record(_)) {
            capture.invalid = true;
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let graph = capture.graph;
        let frontier = capture.frontiers.remove(&stream).unwrap_or_default();
        let node = self.graphs.get_mut(graph)?.add(work.clone(), frontier)?;
        if let Some((_, capture)) = self.capture_of(stream)? {
            capture.frontiers.insert(stream, BTreeSet::from([node]));
        }
        Ok(true)
    }

    /// Records an event on a stream that captures: nothing runs, the event stands for the nodes so far.
    pub fn capture_record(&mut self, stream: Id<Stream>) -> Outcome<Option<Captured>> {
        let Some((id, capture)) = self.capture_of(stream)? else { return Ok(None) };
        let nodes = capture.frontiers.get(&stream).cloned().unwrap_or_default();
        Ok(Some(Captured { capture: id, nodes }))
    }

    /// Lets a stream wait for an event where one of them is captured: the stream joins the capture. Whether
    /// that was so.
    pub fn capture_wait(&mut self, stream: Id<Stream>, event: &Event) -> Outcome<bool> {
        let own = self.capture_of(stream)?.map(|(id, _)| id);
        let Some(captured) = &event.captured else {
            if own.is_some() {
                self.invalidate_capture(stream);
                return Err(Status::STREAM_CAPTURE_ISOLATION);
            }
            return Ok(false);
        };
        if own.is_some_and(|own| own != captured.capture) {
            self.invalidate_capture(stream);
            return Err(Status::STREAM_CAPTURE_MERGE);
        }
        let found = self.streams.get(stream)?;
        let (kind, context) = (found.kind, found.context);
        // An event of a capture that has ended stands for nothing any more.
        let capture = self.captures.get_mut(captured.capture).map_err(|_| Status::CAPTURED_EVENT)?;
        if capture.invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        if kind == Kind::Legacy || context != capture.context {
            capture.invalid = true;
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        capture.frontiers.entry(stream).or_default().extend(captured.nodes.iter().copied());
        self.streams.get_mut(stream)?.capture = Some(captured.capture);
        Ok(true)
    }

    /// Ends the usefulness of the capture that a stream takes part in.
    pub fn invalidate_capture(&mut self, stream: Id<Stream>) {
        let capture = self.streams.get(stream).ok().and_then(|stream| stream.capture);
        if let Some(Ok(capture)) = capture.map(|id| self.captures.get_mut(id)) {
            capture.invalid = true;
        }
    }

    /// Refuses a call that would have to wait for a stream that captures.
    pub fn refuse_in_capture(&mut self, stream: Id<Stream>) -> Outcome {
        if self.streams.get(stream)?.capture.is_some() {
            self.invalidate_capture(stream);
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Refuses to wait for a whole context in which a stream captures.
    pub fn permit_sync(&mut self, context: Id<Context>) -> Outcome {
        let capturing = self.streams.iter().find(|(_, s)| s.context == context && s.capture.is_some());
        match capturing.map(|(id, _)| id) {
            Some(stream) => self.refuse_in_capture(stream),
            None => Ok(()),
        }
    }

    /// Refuses a call that may synchronise, where a capture of this or another thread forbids those.
    pub fn permit_unsafe(&mut self) -> Outcome {
        let (mode, thread) = (MODE.get(), std::thread::current().id());
        let forbids = |capture: &Capture| match mode {
            RELAXED => false,
            _ if capture.thread == thread => capture.mode != RELAXED,
            _ => mode == GLOBAL && capture.mode == GLOBAL,
        };
        let found = self.captures.iter_mut().map(|(_, capture)| capture).find(|c| !c.invalid && forbids(c));
        match found {
            Some(capture) => {
                capture.invalid = true;
                Err(Status::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// Ends a capture: its graph, if everything that it forked was joined.
    fn end_capture(&mut self, stream: Id<Stream>) -> Outcome<Id<Graph>> {
        let id = self.streams.get(stream)?.capture.ok_or(Status::ILLEGAL_STATE)?;
        let capture = self.captures.get(id)?;
        if capture.origin != stream {
            self.invalidate_capture(stream);
            return Err(Status::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(id)?;
        for (_, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.capture == Some(id)) {
            stream.capture = None;
        }
        let joined = self.graphs.get(capture.graph).is_ok_and(|graph| {
            let last = capture.frontiers.get(&stream).cloned().unwrap_or_default();
            let joined = graph.ancestors(last);
            capture.frontiers.values().flatten().all(|node| joined.contains(node))
        });
        let status = match (capture.invalid, joined) {
            (true, _) => Status::STREAM_CAPTURE_INVALIDATED,
            (false, false) => Status::STREAM_CAPTURE_UNJOINED,
            (false, true) => return Ok(capture.graph),
        };
        self.graphs.remove(capture.graph)?;
        Err(status)
    }
}

/// What is known of the capture of a stream.
struct Info {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<Id<Graph>>,
    dependencies: Out<*const Id<Node>>,
    edges: Out<*const EdgeData>,
    count: Out<usize>,
}

impl Info {
    fn answer(self, stream: Id<Stream>, default: crate::driver::ffi::DefaultStream) -> Outcome {
        self.status.check()?;
        let (mut current, stream) = on_stream(stream, default)?;
        let found = match current.state.capture_of(stream) {
            Err(Status::STREAM_CAPTURE_INVALIDATED) => return self.status.set(INVALIDATED),
            other => other?,
        };
        let Some((id, capture)) = found else { return self.status.set(NONE) };
        self.status.set(ACTIVE)?;
        self.id.offer(id.raw());
        self.graph.offer(capture.graph);
        // The caller may read the list until its next call.
        let frontier: Vec<_> = capture.frontiers.get(&stream).into_iter().flatten().copied().collect();
        self.count.offer(frontier.len());
        self.edges.offer(std::ptr::null());
        LAST_LIST.with_borrow_mut(|last| {
            *last = frontier;
            self.dependencies.offer(last.as_ptr());
        });
        Ok(())
    }
}

thread_local! {
    /// The list of nodes that this thread was last shown.
    static LAST_LIST: std::cell::RefCell<Vec<Id<Node>>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn begin(stream: Id<Stream>, default: crate::driver::ffi::DefaultStream, mode: u32) -> Outcome {
    if mode > RELAXED {
        return Err(Status::INVALID_VALUE);
    }
    let (mut current, stream) = on_stream(stream, default)?;
    let found = current.state.streams.get(stream)?;
    if found.kind == Kind::Legacy {
        return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
    }
    if found.capture.is_some() {
        return Err(Status::ILLEGAL_STATE);
    }
    let context = found.context;
    let graph = current.state.graphs.insert(Graph::default());
    let thread = std::thread::current().id();
    let frontiers = BTreeMap::from([(stream, BTreeSet::new())]);
    let capture = Capture { context, graph, origin: stream, mode, thread, frontiers, invalid: false };
    let capture = current.state.captures.insert(capture);
    current.state.streams.get_mut(stream)?.capture = Some(capture);
    Ok(())
}

exports! {
    /// Begins to capture a stream.
    per_thread(cuStreamBeginCapture_v2_ptsz, default)
    fn cuStreamBeginCapture_v2(stream: Id<Stream>, mode: u32) {
        begin(stream, default, mode)
    }

    /// Ends a capture on the stream where it began.
    per_thread(cuStreamEndCapture_ptsz, default)
    fn cuStreamEndCapture(stream: Id<Stream>, out: Out<Id<Graph>>) {
        out.check()?;
        let (mut current, stream) = on_stream(stream, default)?;
        let graph = current.state.end_capture(stream);
        out.set(*graph.as_ref().unwrap_or(&Id::NULL))?;
        graph.map(drop)
    }

    /// Whether a stream captures.
    per_thread(cuStreamIsCapturing_ptsz, default)
    fn cuStreamIsCapturing(stream: Id<Stream>, status: Out<u32>) {
        let (id, graph, count) = (Out::from_address(0), Out::from_address(0), Out::from_address(0));
        let (dependencies, edges) = (Out::from_address(0), Out::from_address(0));
        Info { status, id, graph, dependencies, edges, count }.answer(stream, default)
    }

    /// What is known of the capture of a stream.
    per_thread(cuStreamGetCaptureInfo_v2_ptsz, default)
    fn cuStreamGetCaptureInfo_v2(
        stream: Id<Stream>,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Id<Graph>>,
        dependencies: Out<*const Id<Node>>,
        count: Out<usize>,
    ) {
        Info { status, id, graph, dependencies, edges: Out::from_address(0), count }.answer(stream, default)
    }

    /// What is known of the capture of a stream.
    per_thread(cuStreamGetCaptureInfo_v3_ptsz, default)
    fn cuStreamGetCaptureInfo_v3(
        stream: Id<Stream>,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Id<Graph>>,
        dependencies: Out<*const Id<Node>>,
        edges: Out<*const EdgeData>,
        count: Out<usize>,
    ) {
        Info { status, id, graph, dependencies, edges, count }.answer(stream, default)
    }

    /// Changes what the next piece of work on a capturing stream waits for: adds to it (0) or replaces it
    /// (1).
    per_thread(cuStreamUpdateCaptureDependencies_v2_ptsz, default)
    fn cuStreamUpdateCaptureDependencies_v2(
        stream: Id<Stream>,
        nodes: In<Id<Node>>,
        edges: In<EdgeData>,
        count: usize,
        flags: u32,
    ) {
        let (mut current, stream) = on_stream(stream, default)?;
        let nodes = nodes.all(count)?;
        if flags > 1 || !edges.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let graph = current.state.capture_of(stream)?.ok_or(Status::ILLEGAL_STATE)?.1.graph;
        let known = &current.state.graphs.get(graph)?.nodes;
        if !nodes.iter().all(|node| known.contains_key(node)) {
            return Err(Status::INVALID_VALUE);
        }
        let (_, capture) = current.state.capture_of(stream)?.ok_or(Status::ILLEGAL_STATE)?;
        let frontier = capture.frontiers.entry(stream).or_default();
        if flags == 1 {
            frontier.clear();
        }
        frontier.extend(nodes);
        Ok(())
    }

    /// Swaps how much of captures the calling thread heeds.
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let new = mode.get()?;
        if new > RELAXED {
            return Err(Status::INVALID_VALUE);
        }
        mode.set(MODE.replace(new))
    }
}
