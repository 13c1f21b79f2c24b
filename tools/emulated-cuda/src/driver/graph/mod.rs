//! Graphs: work with dependencies, captured from streams or put together node by node.
//!
//! Memory cannot be allocated and freed by a graph, and events inside one are refused: each is an error where
//! it is asked for.

pub mod capture;
pub mod exec;
pub mod nodes;
pub mod params;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ffi::{Export, In, Out, Text, exports},
    handles::Id,
    state::{State, driver},
    status::{Outcome, Status},
    work::Work,
};
pub use capture::{Capture, Captured};
pub use exec::Exec;

/// The functions that these files export.
pub const ALL_EXPORTS: [&[Export]; 5] =
    [EXPORTS, capture::EXPORTS, exec::EXPORTS, nodes::EXPORTS, params::EXPORTS];

/// A piece of work in a graph.
#[derive(Clone)]
pub struct Node {
    /// What it does.
    pub work: Work,
    /// What must have run before.
    pub dependencies: BTreeSet<Id<Node>>,
    /// Addresses of a kernel's arguments, for callers that ask for them.
    pub arguments: Vec<usize>,
}

impl Node {
    /// A node.
    pub fn new(work: Work, dependencies: impl IntoIterator<Item = Id<Node>>) -> Self {
        Self { work, dependencies: dependencies.into_iter().collect(), arguments: Vec::new() }
    }

    /// `CUgraphNodeType`
    pub fn kind(&self) -> u32 {
        match self.work {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) => 3,
            Work::Graph(_) => 4,
            Work::Nothing | Work::Callback(..) | Work::Free(_) | Work::Record(_) => 5,
        }
    }
}

/// A graph.
#[derive(Clone, Default)]
pub struct Graph {
    /// Its nodes, in order of creation.
    pub nodes: BTreeMap<Id<Node>, Node>,
}

impl Graph {
    /// Adds a node behind others of the graph.
    pub fn add(&mut self, work: Work, dependencies: impl IntoIterator<Item = Id<Node>>) -> Outcome<Id<Node>> {
        let node = Node::new(work, dependencies);
        if !node.dependencies.iter().all(|dependency| self.nodes.contains_key(dependency)) {
            return Err(Status::INVALID_VALUE);
        }
        let id = Id::fresh();
        self.nodes.insert(id, node);
        Ok(id)
    }

    /// The nodes in an order in which they can run: of those that are ready the youngest first, which is the
    /// order that a program with a missing dependency expects least. None where the graph has a cycle.
    pub fn order(&self) -> Option<Vec<Id<Node>>> {
        let mut missing: BTreeMap<_, _> =
            self.nodes.iter().map(|(&id, node)| (id, node.dependencies.len())).collect();
        let mut ready: BTreeSet<_> =
            missing.iter().filter(|(_, count)| **count == 0).map(|(&id, _)| id).collect();
        let mut dependents: BTreeMap<Id<Node>, Vec<Id<Node>>> = BTreeMap::new();
        for (&id, node) in &self.nodes {
            node.dependencies.iter().for_each(|&before| dependents.entry(before).or_default().push(id));
        }
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(id) = ready.pop_last() {
            order.push(id);
            for dependent in dependents.remove(&id).into_iter().flatten() {
                let count = missing.entry(dependent).or_default();
                *count -= 1;
                if *count == 0 {
                    ready.insert(dependent);
                }
            }
        }
        (order.len() == self.nodes.len()).then_some(order)
    }

    /// Its work in that order.
    pub fn works(&self) -> Option<Vec<Work>> {
        Some(self.order()?.iter().filter_map(|id| self.nodes.get(id)).map(|node| node.work.clone()).collect())
    }

    /// Everything that must have run before some nodes, and they themselves.
    pub fn ancestors(&self, nodes: impl IntoIterator<Item = Id<Node>>) -> BTreeSet<Id<Node>> {
        let mut stack: Vec<_> = nodes.into_iter().collect();
        let mut found = BTreeSet::new();
        while let Some(id) = stack.pop() {
            if found.insert(id) {
                stack.extend(
                    self.nodes.get(&id).into_iter().flat_map(|node| node.dependencies.iter().copied()),
                );
            }
        }
        found
    }

    /// Its edges: from and to.
    fn edges(&self) -> Vec<(Id<Node>, Id<Node>)> {
        let edges = |(&to, node): (&Id<Node>, &Node)| {
            node.dependencies.iter().map(move |&from| (from, to)).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(edges).collect()
    }
}

impl State {
    /// The graph that a node is part of.
    pub fn graph_of(&mut self, node: Id<Node>) -> Outcome<&mut Graph> {
        let graphs = self.graphs.iter_mut().map(|(_, graph)| graph);
        graphs.into_iter().find(|graph| graph.nodes.contains_key(&node)).ok_or(Status::INVALID_VALUE)
    }

    /// A node.
    pub fn node(&mut self, id: Id<Node>) -> Outcome<&mut Node> {
        self.graph_of(id)?.nodes.get_mut(&id).ok_or(Status::INVALID_VALUE)
    }
}

/// `CUgraphEdgeData`: ports and kinds of edges, of which there is one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeData {
    bytes: [u8; 8],
}

/// Hands out a list: without a buffer only its length, else as many as there is room for, with nulls behind
/// the last.
pub fn list<T>(items: &[Id<T>], out: Out<Id<T>>, count: Out<usize>) -> Outcome {
    if out.is_null() {
        return count.set(items.len());
    }
    let room = count.get()?;
    out.set_all(items.iter().copied().chain(std::iter::repeat(Id::NULL)).take(room))?;
    count.set(items.len().min(room))
}

/// Edges are handed out with data that says nothing special.
fn edge_data(edges: usize, data: Out<EdgeData>, count: Out<usize>, buffer: bool) -> Outcome {
    if data.is_null() || !buffer {
        return Ok(());
    }
    data.set_all(std::iter::repeat_n(EdgeData::default(), edges.min(count.get()?)))
}

fn edges_of(
    graph: Id<Graph>,
    from: Out<Id<Node>>,
    to: Out<Id<Node>>,
    data: Out<EdgeData>,
    count: Out<usize>,
) -> Outcome {
    count.check()?;
    if from.is_null() != to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    let state = driver()?.lock();
    let (starts, ends): (Vec<_>, Vec<_>) = state.graphs.get(graph)?.edges().into_iter().unzip();
    edge_data(starts.len(), data, count, !from.is_null())?;
    if !from.is_null() {
        let room = count.get()?;
        from.set_all(starts.iter().copied().take(room))?;
    }
    list(&ends, to, count)
}

fn dependencies(node: Id<Node>, out: Out<Id<Node>>, data: Out<EdgeData>, count: Out<usize>) -> Outcome {
    count.check()?;
    let mut state = driver()?.lock();
    let found: Vec<_> = state.node(node)?.dependencies.iter().copied().collect();
    edge_data(found.len(), data, count, !out.is_null())?;
    list(&found, out, count)
}

fn dependents(node: Id<Node>, out: Out<Id<Node>>, data: Out<EdgeData>, count: Out<usize>) -> Outcome {
    count.check()?;
    let mut state = driver()?.lock();
    let graph = state.graph_of(node)?;
    let found = graph.nodes.iter().filter(|(_, other)| other.dependencies.contains(&node)).map(|(&id, _)| id);
    let found: Vec<_> = found.collect();
    edge_data(found.len(), data, count, !out.is_null())?;
    list(&found, out, count)
}

/// Adds edges to a graph or takes them away.
fn connect(
    graph: Id<Graph>,
    from: In<Id<Node>>,
    to: In<Id<Node>>,
    data: In<EdgeData>,
    count: usize,
    add: bool,
) -> Outcome {
    let mut state = driver()?.lock();
    let graph = state.graphs.get_mut(graph)?;
    if !data.is_null() && data.all(count)?.iter().any(|&data| data != EdgeData::default()) {
        return Err(Status::NOT_SUPPORTED);
    }
    for (from, to) in from.all(count)?.into_iter().zip(to.all(count)?) {
        let known = graph.nodes.contains_key(&from);
        let edges =
            &mut graph.nodes.get_mut(&to).filter(|_| known).ok_or(Status::INVALID_VALUE)?.dependencies;
        let changed = if add { edges.insert(from) } else { edges.remove(&from) };
        if !changed || from == to {
            return Err(Status::INVALID_VALUE);
        }
    }
    Ok(())
}

/// No edge data.
fn none() -> In<EdgeData> {
    In::from_address(0)
}

exports! {
    /// Makes an empty graph.
    fn cuGraphCreate(out: Out<Id<Graph>>, flags: u32) {
        out.check()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        out.set(driver()?.lock().graphs.insert(Graph::default()))
    }

    /// Ends a graph; what was made of it lives on.
    fn cuGraphDestroy(graph: Id<Graph>) {
        driver()?.lock().graphs.remove(graph).map(drop).map_err(|_| Status::INVALID_VALUE)
    }

    /// Makes a copy of a graph, with nodes of its own.
    fn cuGraphClone(out: Out<Id<Graph>>, graph: Id<Graph>) {
        out.check()?;
        let mut state = driver()?.lock();
        let original = &state.graphs.get(graph)?.nodes;
        let fresh: BTreeMap<_, _> = original.keys().map(|&id| (id, Id::fresh())).collect();
        let nodes = original.iter().map(|(id, node)| {
            let dependencies = node.dependencies.iter().map(|before| fresh[before]);
            (fresh[id], Node::new(node.work.clone(), dependencies))
        });
        let clone = Graph { nodes: nodes.collect() };
        out.set(state.graphs.insert(clone))
    }

    /// The nodes of a graph.
    fn cuGraphGetNodes(graph: Id<Graph>, out: Out<Id<Node>>, count: Out<usize>) {
        count.check()?;
        let state = driver()?.lock();
        let nodes: Vec<_> = state.graphs.get(graph)?.nodes.keys().copied().collect();
        list(&nodes, out, count)
    }

    /// The nodes of a graph that wait for nothing.
    fn cuGraphGetRootNodes(graph: Id<Graph>, out: Out<Id<Node>>, count: Out<usize>) {
        count.check()?;
        let state = driver()?.lock();
        let nodes = state.graphs.get(graph)?.nodes.iter().filter(|(_, node)| node.dependencies.is_empty());
        let nodes: Vec<_> = nodes.map(|(&id, _)| id).collect();
        list(&nodes, out, count)
    }

    /// The edges of a graph.
    fn cuGraphGetEdges(graph: Id<Graph>, from: Out<Id<Node>>, to: Out<Id<Node>>, count: Out<usize>) {
        edges_of(graph, from, to, Out::from_address(0), count)
    }

    /// The edges of a graph.
    fn cuGraphGetEdges_v2(
        graph: Id<Graph>,
        from: Out<Id<Node>>,
        to: Out<Id<Node>>,
        data: Out<EdgeData>,
        count: Out<usize>,
    ) {
        edges_of(graph, from, to, data, count)
    }

    /// What a node waits for.
    fn cuGraphNodeGetDependencies(node: Id<Node>, out: Out<Id<Node>>, count: Out<usize>) {
        dependencies(node, out, Out::from_address(0), count)
    }

    /// What a node waits for.
    fn cuGraphNodeGetDependencies_v2(
        node: Id<Node>,
        out: Out<Id<Node>>,
        data: Out<EdgeData>,
        count: Out<usize>,
    ) {
        dependencies(node, out, data, count)
    }

    /// What waits for a node.
    fn cuGraphNodeGetDependentNodes(node: Id<Node>, out: Out<Id<Node>>, count: Out<usize>) {
        dependents(node, out, Out::from_address(0), count)
    }

    /// What waits for a node.
    fn cuGraphNodeGetDependentNodes_v2(
        node: Id<Node>,
        out: Out<Id<Node>>,
        data: Out<EdgeData>,
        count: Out<usize>,
    ) {
        dependents(node, out, data, count)
    }

    /// Adds edges.
    fn cuGraphAddDependencies(graph: Id<Graph>, from: In<Id<Node>>, to: In<Id<Node>>, count: usize) {
        connect(graph, from, to, none(), count, true)
    }

    /// Adds edges.
    fn cuGraphAddDependencies_v2(
        graph: Id<Graph>,
        from: In<Id<Node>>,
        to: In<Id<Node>>,
        data: In<EdgeData>,
        count: usize,
    ) {
        connect(graph, from, to, data, count, true)
    }

    /// Takes edges away.
    fn cuGraphRemoveDependencies(graph: Id<Graph>, from: In<Id<Node>>, to: In<Id<Node>>, count: usize) {
        connect(graph, from, to, none(), count, false)
    }

    /// Takes edges away.
    fn cuGraphRemoveDependencies_v2(
        graph: Id<Graph>,
        from: In<Id<Node>>,
        to: In<Id<Node>>,
        data: In<EdgeData>,
        count: usize,
    ) {
        connect(graph, from, to, data, count, false)
    }

    /// Ends a node and its edges.
    fn cuGraphDestroyNode(node: Id<Node>) {
        let mut state = driver()?.lock();
        let graph = state.graph_of(node)?;
        graph.nodes.remove(&node);
        for other in graph.nodes.values_mut() {
            other.dependencies.remove(&node);
        }
        Ok(())
    }

    /// What kind of work a node does.
    fn cuGraphNodeGetType(node: Id<Node>, out: Out<u32>) {
        out.set(driver()?.lock().node(node)?.kind())
    }

    /// Draws a graph in the DOT language.
    fn cuGraphDebugDotPrint(graph: Id<Graph>, path: Text, _flags: u32) {
        const KINDS: [&str; 6] = ["kernel", "memcpy", "memset", "host", "graph", "empty"];
        let state = driver()?.lock();
        let graph = state.graphs.get(graph)?;
        let mut text = String::from("digraph {\n");
        for (id, node) in &graph.nodes {
            let name = match &node.work {
                Work::Kernel(launch) => launch.kernel.name.as_str(),
                _ => KINDS[node.kind() as usize],
            };
            text += &format!("  \"{id:?}\" [label=\"{name}\"];\n");
        }
        for (from, to) in graph.edges() {
            text += &format!("  \"{from:?}\" -> \"{to:?}\";\n");
        }
        text += "}\n";
        std::fs::write(path.get()?, text).map_err(|_| Status::OPERATING_SYSTEM)
    }
}
