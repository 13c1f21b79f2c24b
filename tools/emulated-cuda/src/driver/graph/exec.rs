//! Executable graphs.

use std::sync::Arc;

use super::{Graph, Node};
use crate::driver::{
    context::Context,
    ffi::{Out, exports},
    handles::Id,
    state::current,
    status::{Outcome, Status},
    stream::{self, Stream, on_stream},
    work::Work,
};

/// Flags of an instantiation.
const AUTO_FREE: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const NODE_PRIORITY: u64 = 8;
/// `CUgraphInstantiateResult`
const SUCCESS: u32 = 0;
const ERROR: u32 = 1;
const INVALID_STRUCTURE: u32 = 2;
/// `CUgraphExecUpdateResult`
const UPDATE_SUCCESS: u32 = 0;
const TOPOLOGY_CHANGED: u32 = 2;
const KIND_CHANGED: u32 = 3;

/// A graph that can be launched.
pub struct Exec {
    /// Its context.
    pub context: Id<Context>,
    /// The graph as it was.
    graph: Graph,
    /// Its nodes in the order in which they run, and whether they do.
    order: Vec<(Id<Node>, bool)>,
    flags: u64,
}

impl Exec {
    fn new(context: Id<Context>, graph: Graph, flags: u64) -> Option<Self> {
        let order = graph.order()?.into_iter().map(|id| (id, true)).collect();
        Some(Self { context, graph, order, flags })
    }

    /// What a launch runs.
    fn works(&self) -> Work {
        let enabled = self.order.iter().filter(|(_, enabled)| *enabled);
        let nodes = enabled.filter_map(|(id, _)| self.graph.nodes.get(id));
        Work::Graph(Arc::new(nodes.map(|node| node.work.clone()).collect()))
    }

    /// Replaces what a node does by work of the same kind.
    pub fn replace(&mut self, id: Id<Node>, work: Work) -> Outcome {
        let node = self.graph.nodes.get_mut(&id).ok_or(Status::INVALID_VALUE)?;
        if Node::new(work.clone(), []).kind() != node.kind() {
            return Err(Status::INVALID_VALUE);
        }
        node.work = work;
        Ok(())
    }

    /// Takes over what the nodes of another graph do, which must be of the same shape. What is different, and
    /// where.
    fn update(&mut self, other: &Graph) -> Result<(), (u32, Id<Node>)> {
        let first = other.nodes.keys().next().copied().unwrap_or(Id::NULL);
        if self.graph.nodes.len() != other.nodes.len() {
            return Err((TOPOLOGY_CHANGED, first));
        }
        let place = |graph: &Graph, id: &Id<Node>| graph.nodes.range(..id).count();
        for ((_, mine), (&id, theirs)) in self.graph.nodes.iter().zip(&other.nodes) {
            let shape = |graph: &Graph, node: &Node| -> Vec<usize> {
                let mut places: Vec<_> = node.dependencies.iter().map(|id| place(graph, id)).collect();
                places.sort_unstable();
                places
            };
            if shape(&self.graph, mine) != shape(other, theirs) {
                return Err((TOPOLOGY_CHANGED, id));
            }
            if mine.kind() != theirs.kind() {
                return Err((KIND_CHANGED, id));
            }
        }
        for (mine, theirs) in self.graph.nodes.values_mut().zip(other.nodes.values()) {
            mine.work = theirs.work.clone();
        }
        Ok(())
    }

    fn enabled(&mut self, node: Id<Node>) -> Outcome<&mut bool> {
        let found = self.order.iter_mut().find(|(id, _)| *id == node);
        found.map(|(_, enabled)| enabled).ok_or(Status::INVALID_VALUE)
    }
}

/// Makes an executable graph; on failure also what `CUgraphInstantiateResult` says of it.
fn instantiate(out: Out<Id<Exec>>, graph: Id<Graph>, flags: u64) -> Result<(), (Status, u32)> {
    let plain = |status| (status, ERROR);
    out.check().map_err(plain)?;
    let mut current = current().map_err(plain)?;
    let graph = current.state.graphs.get(graph).map_err(|_| plain(Status::INVALID_VALUE))?.clone();
    if flags & !(AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY) != 0
        || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH
    {
        return Err(plain(Status::INVALID_VALUE));
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(plain(Status::NOT_SUPPORTED));
    }
    let exec = Exec::new(current.context, graph, flags).ok_or((Status::INVALID_VALUE, INVALID_STRUCTURE))?;
    out.set(current.state.execs.insert(exec)).map_err(plain)
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InstantiateParams {
    flags: u64,
    stream: Id<Stream>,
    error_node: Id<Node>,
    result: u32,
}

/// `CUgraphExecUpdateResultInfo`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UpdateResult {
    result: u32,
    node: Id<Node>,
    from: Id<Node>,
}

fn update(exec: Id<Exec>, graph: Id<Graph>) -> Outcome<Result<(), (u32, Id<Node>)>> {
    let mut current = current()?;
    let graph = current.state.graphs.get(graph)?.clone();
    Ok(current.state.execs.get_mut(exec)?.update(&graph))
}

exports! {
    /// Makes an executable graph.
    fn cuGraphInstantiateWithFlags(out: Out<Id<Exec>>, graph: Id<Graph>, flags: u64) {
        instantiate(out, graph, flags).map_err(|(status, _)| status)
    }

    /// Makes an executable graph.
    alias(cuGraphInstantiate)
    fn cuGraphInstantiate_v2(
        out: Out<Id<Exec>>,
        graph: Id<Graph>,
        error_node: Out<Id<Node>>,
        log: Out<u8>,
        log_size: usize,
    ) {
        error_node.offer(Id::NULL);
        if log_size > 0 && !log.is_null() {
            log.set_text("", log_size)?;
        }
        instantiate(out, graph, 0).map_err(|(status, _)| status)
    }

    /// Makes an executable graph.
    per_thread(cuGraphInstantiateWithParams_ptsz, default)
    fn cuGraphInstantiateWithParams(out: Out<Id<Exec>>, graph: Id<Graph>, params: Out<InstantiateParams>) {
        let asked = params.get()?;
        if asked.flags & UPLOAD != 0 {
            drop(on_stream(asked.stream, default)?);
        }
        let result = instantiate(out, graph, asked.flags);
        let code = result.err().map_or(SUCCESS, |(_, code)| code);
        params.set(InstantiateParams { error_node: Id::NULL, result: code, ..asked })?;
        result.map_err(|(status, _)| status)
    }

    /// The flags that an executable graph was made with.
    fn cuGraphExecGetFlags(exec: Id<Exec>, out: Out<u64>) {
        out.set(current()?.state.execs.get(exec)?.flags)
    }

    /// Brings an executable graph to the device: it is there.
    per_thread(cuGraphUpload_ptsz, default)
    fn cuGraphUpload(exec: Id<Exec>, stream: Id<Stream>) {
        let (current, _) = on_stream(stream, default)?;
        current.state.execs.get(exec).map(drop)
    }

    /// Runs a graph in stream order.
    per_thread(cuGraphLaunch_ptsz, default)
    fn cuGraphLaunch(exec: Id<Exec>, stream: Id<Stream>) {
        let works = current()?.state.execs.get(exec)?.works();
        stream::submit(stream, default, works)
    }

    /// Ends an executable graph; launches of it that wait still run.
    fn cuGraphExecDestroy(exec: Id<Exec>) {
        current()?.state.execs.remove(exec).map(drop)
    }

    /// Takes over what the nodes of a graph of the same shape do.
    fn cuGraphExecUpdate_v2(exec: Id<Exec>, graph: Id<Graph>, out: Out<UpdateResult>) {
        out.check()?;
        match update(exec, graph)? {
            Ok(()) => out.set(UpdateResult { result: UPDATE_SUCCESS, node: Id::NULL, from: Id::NULL }),
            Err((result, node)) => {
                out.set(UpdateResult { result, node, from: Id::NULL })?;
                Err(Status::GRAPH_EXEC_UPDATE_FAILURE)
            }
        }
    }

    /// Takes over what the nodes of a graph of the same shape do.
    fn cuGraphExecUpdate(exec: Id<Exec>, graph: Id<Graph>, error_node: Out<Id<Node>>, out: Out<u32>) {
        out.check()?;
        let result = update(exec, graph)?;
        let (code, node) = result.err().unwrap_or((UPDATE_SUCCESS, Id::NULL));
        error_node.offer(node);
        out.set(code)?;
        result.map_err(|_| Status::GRAPH_EXEC_UPDATE_FAILURE)
    }

    /// Whether a node runs in an executable graph.
    fn cuGraphNodeGetEnabled(exec: Id<Exec>, node: Id<Node>, out: Out<u32>) {
        out.set((*current()?.state.execs.get_mut(exec)?.enabled(node)?).into())
    }

    /// Sets whether a kernel, copy or set runs in an executable graph.
    fn cuGraphNodeSetEnabled(exec: Id<Exec>, node: Id<Node>, enabled: u32) {
        let mut current = current()?;
        let exec = current.state.execs.get_mut(exec)?;
        let kind = exec.graph.nodes.get(&node).ok_or(Status::INVALID_VALUE)?.kind();
        if kind > 2 || enabled > 1 {
            return Err(Status::INVALID_VALUE);
        }
        *exec.enabled(node)? = enabled != 0;
        Ok(())
    }
}
