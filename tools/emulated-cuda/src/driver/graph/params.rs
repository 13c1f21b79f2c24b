//! What nodes do, as the API describes it, and changing it.

use super::{Node, exec::Exec};
use crate::driver::{
    context::Context,
    ffi::{In, Out, exports},
    handles::Id,
    launch::{Arguments, Launch},
    memory::{copy::Copy, set::Fill, shaped::Memcpy3D},
    module::Function,
    state::{Current, current, driver},
    status::{Outcome, Status},
    work::{HostCall, HostFunction, Work},
};
use crate::machine::LaunchConfig;

/// `CUDA_KERNEL_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelParams {
    function: Id<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    pointers: usize,
    extra: usize,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelParamsV2 {
    first: KernelParams,
    kernel: Id<Function>,
    context: Id<Context>,
}

impl KernelParams {
    /// The launch that they describe.
    pub fn read(self, current: &mut Current) -> Outcome<Work> {
        let Self { function, grid, block, dynamic_shared, pointers, extra } = self;
        let config = LaunchConfig { grid, block, dynamic_shared, cooperative: false, sample: None };
        let arguments = Arguments { pointers: In::from_address(pointers), extra: In::from_address(extra) };
        Launch::prepare(current, function, config, arguments).map(Work::Kernel)
    }

    /// The description of a node. The addresses of its arguments are good for as long as the node is.
    fn describe(node: &mut Node) -> Outcome<Self> {
        let Work::Kernel(launch) = &node.work else { return Err(Status::INVALID_VALUE) };
        let start = launch.params.as_ptr() as usize;
        node.arguments = launch.kernel.parameters.iter().map(|p| start + p.offset as usize).collect();
        let LaunchConfig { grid, block, dynamic_shared, .. } = launch.config;
        let pointers = if node.arguments.is_empty() { 0 } else { node.arguments.as_ptr() as usize };
        Ok(Self { function: launch.function, grid, block, dynamic_shared, pointers, extra: 0 })
    }
}

impl KernelParamsV2 {
    /// Without its kernel of a library: that stands for a function.
    pub fn first(self) -> KernelParams {
        let function = if self.first.function.is_null() { self.kernel } else { self.first.function };
        KernelParams { function, ..self.first }
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FillParams {
    address: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

impl FillParams {
    /// The set that they describe.
    pub fn read(self, current: &Current) -> Outcome<Work> {
        let Self { address, pitch, value, element, width, height } = self;
        let fill = Fill { address, pitch, value, element: element as usize, width, height };
        fill.check(&current.driver.device.memory)?;
        Ok(Work::Fill(fill))
    }
}

/// `CUDA_HOST_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostParams {
    function: Option<HostFunction>,
    user: usize,
}

impl HostParams {
    /// The call that they describe.
    pub fn read(self) -> Outcome<Work> {
        let function = self.function.ok_or(Status::INVALID_VALUE)?;
        Ok(Work::Host(HostCall { function, user: self.user }))
    }
}

/// The copy that a description means. Host memory is read and written when the graph runs.
pub fn read_copy(copy: Memcpy3D, current: &Current) -> Outcome<Work> {
    let (to, from, shape) = copy.ends()?;
    Ok(Copy::plan(&current.driver.device.memory, to, from, shape)?.map_or(Work::Nothing, Work::Copy))
}

/// Where a change goes: a node of a graph, or its copy in an executable graph.
#[derive(Clone, Copy)]
enum Target {
    Node(Id<Node>),
    Exec(Id<Exec>, Id<Node>),
}

/// Replaces what a node does by work of the same kind.
fn replace(target: Target, read: impl FnOnce(&mut Current) -> Outcome<Work>) -> Outcome {
    let mut current = current()?;
    let work = read(&mut current)?;
    match target {
        Target::Node(id) => {
            let node = current.state.node(id)?;
            if Node::new(work.clone(), []).kind() != node.kind() {
                return Err(Status::INVALID_VALUE);
            }
            node.work = work;
            Ok(())
        }
        Target::Exec(exec, node) => current.state.execs.get_mut(exec)?.replace(node, work),
    }
}

exports! {
    /// What a kernel node does.
    fn cuGraphKernelNodeGetParams(node: Id<Node>, out: Out<KernelParams>) {
        out.set(KernelParams::describe(driver()?.lock().node(node)?)?)
    }

    /// What a kernel node does.
    fn cuGraphKernelNodeGetParams_v2(node: Id<Node>, out: Out<KernelParamsV2>) {
        let first = KernelParams::describe(driver()?.lock().node(node)?)?;
        out.set(KernelParamsV2 { first, kernel: Id::NULL, context: Id::NULL })
    }

    /// Changes what a kernel node does.
    fn cuGraphKernelNodeSetParams(node: Id<Node>, params: In<KernelParams>) {
        let params = params.get()?;
        replace(Target::Node(node), |current| params.read(current))
    }

    /// Changes what a kernel node does.
    fn cuGraphKernelNodeSetParams_v2(node: Id<Node>, params: In<KernelParamsV2>) {
        let params = params.get()?.first();
        replace(Target::Node(node), |current| params.read(current))
    }

    /// Changes what a kernel node does in an executable graph.
    fn cuGraphExecKernelNodeSetParams(exec: Id<Exec>, node: Id<Node>, params: In<KernelParams>) {
        let params = params.get()?;
        replace(Target::Exec(exec, node), |current| params.read(current))
    }

    /// Changes what a kernel node does in an executable graph.
    fn cuGraphExecKernelNodeSetParams_v2(exec: Id<Exec>, node: Id<Node>, params: In<KernelParamsV2>) {
        let params = params.get()?.first();
        replace(Target::Exec(exec, node), |current| params.read(current))
    }

    /// What a copy node does.
    fn cuGraphMemcpyNodeGetParams(node: Id<Node>, out: Out<Memcpy3D>) {
        let mut state = driver()?.lock();
        match &state.node(node)?.work {
            Work::Copy(copy) => out.set(Memcpy3D::describe(copy)),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Changes what a copy node does.
    fn cuGraphMemcpyNodeSetParams(node: Id<Node>, params: In<Memcpy3D>) {
        let params = params.get()?;
        replace(Target::Node(node), |current| read_copy(params, current))
    }

    /// Changes what a copy node does in an executable graph.
    fn cuGraphExecMemcpyNodeSetParams(
        exec: Id<Exec>,
        node: Id<Node>,
        params: In<Memcpy3D>,
        _context: Id<Context>,
    ) {
        let params = params.get()?;
        replace(Target::Exec(exec, node), |current| read_copy(params, current))
    }

    /// What a set node does.
    fn cuGraphMemsetNodeGetParams(node: Id<Node>, out: Out<FillParams>) {
        let mut state = driver()?.lock();
        let Work::Fill(fill) = state.node(node)?.work else { return Err(Status::INVALID_VALUE) };
        let Fill { address, pitch, value, element, width, height } = fill;
        out.set(FillParams { address, pitch, value, element: element as u32, width, height })
    }

    /// Changes what a set node does.
    fn cuGraphMemsetNodeSetParams(node: Id<Node>, params: In<FillParams>) {
        let params = params.get()?;
        replace(Target::Node(node), |current| params.read(current))
    }

    /// Changes what a set node does in an executable graph.
    fn cuGraphExecMemsetNodeSetParams(
        exec: Id<Exec>,
        node: Id<Node>,
        params: In<FillParams>,
        _context: Id<Context>,
    ) {
        let params = params.get()?;
        replace(Target::Exec(exec, node), |current| params.read(current))
    }

    /// What a host node does.
    fn cuGraphHostNodeGetParams(node: Id<Node>, out: Out<HostParams>) {
        let mut state = driver()?.lock();
        let Work::Host(call) = state.node(node)?.work else { return Err(Status::INVALID_VALUE) };
        out.set(HostParams { function: Some(call.function), user: call.user })
    }

    /// Changes what a host node does.
    fn cuGraphHostNodeSetParams(node: Id<Node>, params: In<HostParams>) {
        let params = params.get()?;
        replace(Target::Node(node), |_| params.read())
    }

    /// Changes what a host node does in an executable graph.
    fn cuGraphExecHostNodeSetParams(exec: Id<Exec>, node: Id<Node>, params: In<HostParams>) {
        let params = params.get()?;
        replace(Target::Exec(exec, node), |_| params.read())
    }
}
