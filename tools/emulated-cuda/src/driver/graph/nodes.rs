//! Putting a graph together node by node.

use std::sync::Arc;

use super::{
    Graph, Node,
    params::{FillParams, HostParams, KernelParams, KernelParamsV2, read_copy},
};
use crate::driver::{
    context::Context,
    ffi::{In, Out, exports},
    handles::Id,
    memory::shaped::Memcpy3D,
    state::{Current, current},
    status::{Outcome, Status},
    work::Work,
};

/// Where a node goes: its graph and the nodes that it waits for.
struct Position {
    out: Out<Id<Node>>,
    graph: Id<Graph>,
    dependencies: In<Id<Node>>,
    count: usize,
}

/// Adds a node.
fn add(position: Position, work: impl FnOnce(&mut Current) -> Outcome<Work>) -> Outcome {
    let Position { out, graph, dependencies, count } = position;
    out.check()?;
    let mut current = current()?;
    let dependencies = dependencies.all(count)?;
    current.state.graphs.get(graph).map_err(|_| Status::INVALID_VALUE)?;
    let work = work(&mut current)?;
    out.set(current.state.graphs.get_mut(graph)?.add(work, dependencies)?)
}

exports! {
    /// A kernel.
    fn cuGraphAddKernelNode(
        out: Out<Id<Node>>,
        graph: Id<Graph>,
        dependencies: In<Id<Node>>,
        count: usize,
        params: In<KernelParams>,
    ) {
        let params = params.get()?;
        add(Position { out, graph, dependencies, count }, |current| params.read(current))
    }

    /// A kernel.
    fn cuGraphAddKernelNode_v2(
        out: Out<Id<Node>>,
        graph: Id<Graph>,
        dependencies: In<Id<Node>>,
        count: usize,
        params: In<KernelParamsV2>,
    ) {
        let params = params.get()?.first();
        add(Position { out, graph, dependencies, count }, |current| params.read(current))
    }

    /// A copy.
    fn cuGraphAddMemcpyNode(
        out: Out<Id<Node>>,
        graph: Id<Graph>,
        dependencies: In<Id<Node>>,
        count: usize,
        params: In<Memcpy3D>,
        _context: Id<Context>,
    ) {
        let params = params.get()?;
        add(Position { out, graph, dependencies, count }, |current| read_copy(params, current))
    }

    /// A set.
    fn cuGraphAddMemsetNode(
        out: Out<Id<Node>>,
        graph: Id<Graph>,
        dependencies: In<Id<Node>>,
        count: usize,
        params: In<FillParams>,
        _context: Id<Context>,
    ) {
        let params = params.get()?;
        add(Position { out, graph, dependencies, count }, |current| params.read(current))
    }

    /// A call of a host function.
    fn cuGraphAddHostNode(
        out: Out<Id<Node>>,
        graph: Id<Graph>,
        dependencies: In<Id<Node>>,
        count: usize,
        params: In<HostParams>,
    ) {
        let params = params.get()?;
        add(Position { out, graph, dependencies, count }, |_| params.read())
    }

    /// Nothing, to wait for several at once.
    fn cuGraphAddEmptyNode(out: Out<Id<Node>>, graph: Id<Graph>, dependencies: In<Id<Node>>, count: usize) {
        add(Position { out, graph, dependencies, count }, |_| Ok(Work::Nothing))
    }

    /// Another graph, as it is now.
    fn cuGraphAddChildGraphNode(
        out: Out<Id<Node>>,
        graph: Id<Graph>,
        dependencies: In<Id<Node>>,
        count: usize,
        child: Id<Graph>,
    ) {
        add(Position { out, graph, dependencies, count }, |current| {
            let works = current.state.graphs.get(child)?.works().ok_or(Status::INVALID_VALUE)?;
            Ok(Work::Graph(Arc::new(works)))
        })
    }
}
