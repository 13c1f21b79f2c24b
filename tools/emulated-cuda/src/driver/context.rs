//! Contexts: the primary one and created ones, the stack of each thread, limits and flags.

use std::collections::BTreeMap;

use super::{
    device::{Ordinal, check_device},
    event::Event,
    ffi::{In, Out, exports},
    handles::Id,
    module,
    state::{CONTEXTS, Driver, Guard, State, current, driver},
    status::{Outcome, Status},
    stream::Stream,
};

/// The version of the API that contexts report.
const API_VERSION: u32 = 3020;
/// Flags that a context may be made with.
const FLAGS: u32 = 0xff;

/// A context.
pub struct Context {
    /// Flags that it was made with.
    pub flags: u32,
    /// The error of the fault that poisoned it.
    pub sticky: Option<Status>,
    /// Its legacy default stream.
    pub legacy: Id<Stream>,
    /// Limits that were set, by their number.
    pub limits: BTreeMap<u32, usize>,
    /// Preference for the split of L1 and shared memory, which changes nothing here.
    pub cache_config: u32,
    /// Width of shared memory banks, which changes nothing here.
    pub shared_config: u32,
}

/// The device's primary context.
#[derive(Default)]
pub struct Primary {
    /// The context, while it is retained.
    pub context: Option<Id<Context>>,
    /// How often it is retained.
    pub retained: u32,
    /// Flags for the next time that it comes to life.
    pub flags: u32,
}

/// Limits by number, with their defaults.
const LIMITS: &[(u32, usize)] = &[
    (STACK_SIZE, 1 << 10),
    (PRINTF_FIFO_SIZE, 1 << 20),
    (MALLOC_HEAP_SIZE, 8 << 20),
    (SYNC_DEPTH, 2),
    (PENDING_LAUNCHES, 2048),
    (L2_FETCH, 64),
    (L2_PERSIST, 0),
];
const STACK_SIZE: u32 = 0;
const PRINTF_FIFO_SIZE: u32 = 1;
const MALLOC_HEAP_SIZE: u32 = 2;
/// Launches by kernels, which this device does not run: it reports what CUDA documents for a device before sm_90.
const SYNC_DEPTH: u32 = 3;
const PENDING_LAUNCHES: u32 = 4;
const L2_FETCH: u32 = 5;
const L2_PERSIST: u32 = 6;

impl State {
    fn new_context(&mut self, flags: u32) -> Id<Context> {
        let context = self.contexts.insert(Context {
            flags,
            sticky: None,
            legacy: Id::NULL,
            limits: LIMITS.iter().copied().collect(),
            cache_config: 0,
            shared_config: 0,
        });
        let legacy = self.streams.insert(Stream::legacy(context));
        if let Ok(new) = self.contexts.get_mut(context) {
            new.legacy = legacy;
        }
        context
    }
}

impl Driver {
    /// Ends a context: runs what its streams still hold, reports its leaks, frees everything that it owns.
    pub fn destroy_context(&'static self, mut state: Guard, context: Id<Context>) -> Guard {
        state = self.drive_context(state, context);
        // Other threads were let in meanwhile; only one takes it away.
        if state.contexts.remove(context).is_err() {
            return state;
        }
        if self.device.options.checks.leaks {
            self.report_leaks(&state, Some(context));
        }
        state.streams.extract(|stream| stream.context == context);
        state.per_thread_streams.retain(|(owner, _), _| *owner != context);
        state.events.extract(|event: &Event| event.context == context);
        state.execs.extract(|exec| exec.context == context);
        state.captures.extract(|capture| capture.context == context);
        for module in module::of_context(&state, context) {
            module::unload(self, &mut state, module);
        }
        let owned: Vec<u64> = state
            .allocations
            .iter()
            .filter(|(_, a)| a.context == context)
            .map(|(&address, _)| address)
            .collect();
        for address in owned {
            state.allocations.remove(&address);
            // Nobody else frees what the table holds.
            let _ = self.device.memory.free(address);
        }
        state.registered.retain(|_, range| range.context != context);
        self.write_counters(false);
        self.progress.notify_all();
        state
    }
}

fn push(context: Id<Context>) {
    CONTEXTS.with_borrow_mut(|stack| stack.push(context));
}

fn top() -> Option<Id<Context>> {
    CONTEXTS.with_borrow(|stack| stack.last().copied())
}

fn create(out: Out<Id<Context>>, flags: u32, device: Ordinal) -> Outcome {
    out.check()?;
    check_device(device)?;
    if flags & !FLAGS != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let context = driver()?.lock().new_context(flags);
    push(context);
    out.set(context)
}

/// The named context, or the current one where null is passed.
fn or_current(context: Id<Context>) -> Outcome<Id<Context>> {
    if context.is_null() { top().ok_or(Status::INVALID_CONTEXT) } else { Ok(context) }
}

fn release_primary(reset: bool) -> Outcome {
    let driver = driver()?;
    let mut state = driver.lock();
    if !reset {
        if state.primary.retained == 0 {
            return Err(Status::INVALID_CONTEXT);
        }
        state.primary.retained -= 1;
        if state.primary.retained > 0 {
            return Ok(());
        }
    }
    if let Some(context) = state.primary.context.take() {
        // Whoever retained it before a reset holds a context that comes back with the next retain.
        state.primary.retained = 0;
        drop(driver.destroy_context(state, context));
    }
    Ok(())
}

exports! {
    /// Retains the primary context, which comes to life with the first retain.
    fn cuDevicePrimaryCtxRetain(out: Out<Id<Context>>, device: Ordinal) {
        out.check()?;
        check_device(device)?;
        let mut state = driver()?.lock();
        let context = match state.primary.context {
            Some(context) => context,
            None => {
                let flags = state.primary.flags;
                let context = state.new_context(flags);
                state.primary.context = Some(context);
                context
            }
        };
        state.primary.retained += 1;
        out.set(context)
    }

    /// Releases the primary context; the last release ends it.
    alias(cuDevicePrimaryCtxRelease)
    fn cuDevicePrimaryCtxRelease_v2(device: Ordinal) {
        check_device(device)?;
        release_primary(false)
    }

    /// Ends the primary context whoever holds it.
    alias(cuDevicePrimaryCtxReset)
    fn cuDevicePrimaryCtxReset_v2(device: Ordinal) {
        check_device(device)?;
        release_primary(true)
    }

    /// Flags of the primary context and whether it is alive.
    fn cuDevicePrimaryCtxGetState(device: Ordinal, flags: Out<u32>, active: Out<i32>) {
        check_device(device)?;
        flags.check()?;
        active.check()?;
        let state = driver()?.lock();
        flags.set(state.primary.flags)?;
        active.set(state.primary.context.is_some().into())
    }

    /// Sets the flags of the primary context.
    alias(cuDevicePrimaryCtxSetFlags)
    fn cuDevicePrimaryCtxSetFlags_v2(device: Ordinal, flags: u32) {
        check_device(device)?;
        if flags & !FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let mut state = driver()?.lock();
        state.primary.flags = flags;
        if let Some(context) = state.primary.context {
            state.context_mut(context)?.flags = flags;
        }
        Ok(())
    }

    /// Makes a context and its thread's current one.
    fn cuCtxCreate_v2(out: Out<Id<Context>>, flags: u32, device: Ordinal) {
        create(out, flags, device)
    }

    /// As `cuCtxCreate_v2`; affinities to some multiprocessors are refused.
    fn cuCtxCreate_v3(out: Out<Id<Context>>, affinities: In<u8>, count: i32, flags: u32, device: Ordinal) {
        if count != 0 || !affinities.is_null() {
            return Err(Status::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(out, flags, device)
    }

    /// As `cuCtxCreate_v2`; affinities and contexts inside graphics are refused.
    fn cuCtxCreate_v4(out: Out<Id<Context>>, params: In<CreateParams>, flags: u32, device: Ordinal) {
        if !params.is_null() {
            let params = params.get()?;
            if params.affinity_count != 0 || params.affinities != 0 {
                return Err(Status::UNSUPPORTED_EXEC_AFFINITY);
            }
            if params.graphics != 0 {
                return Err(Status::NOT_SUPPORTED);
            }
        }
        create(out, flags, device)
    }

    /// Ends a created context.
    alias(cuCtxDestroy)
    fn cuCtxDestroy_v2(context: Id<Context>) {
        let driver = driver()?;
        let state = driver.lock();
        state.context(context)?;
        if state.primary.context == Some(context) {
            return Err(Status::INVALID_CONTEXT);
        }
        drop(driver.destroy_context(state, context));
        CONTEXTS.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    /// Makes a context current on top of the others.
    alias(cuCtxPushCurrent)
    fn cuCtxPushCurrent_v2(context: Id<Context>) {
        driver()?.lock().context(context)?;
        push(context);
        Ok(())
    }

    /// Takes the current context off the stack.
    alias(cuCtxPopCurrent)
    fn cuCtxPopCurrent_v2(out: Out<Id<Context>>) {
        driver()?;
        let popped = CONTEXTS.with_borrow_mut(|stack| stack.pop()).ok_or(Status::INVALID_CONTEXT)?;
        out.offer(popped);
        Ok(())
    }

    /// Replaces the current context; null leaves none.
    fn cuCtxSetCurrent(context: Id<Context>) {
        let driver = driver()?;
        if !context.is_null() {
            driver.lock().context(context)?;
        }
        CONTEXTS.with_borrow_mut(|stack| {
            stack.pop();
            if !context.is_null() {
                stack.push(context);
            }
        });
        Ok(())
    }

    /// The current context, or null.
    fn cuCtxGetCurrent(out: Out<Id<Context>>) {
        driver()?;
        out.set(top().unwrap_or(Id::NULL))
    }

    /// The device of the current context.
    fn cuCtxGetDevice(out: Out<Ordinal>) {
        current()?;
        out.set(0)
    }

    /// The device of a context.
    fn cuCtxGetDevice_v2(out: Out<Ordinal>, context: Id<Context>) {
        driver()?.lock().context(or_current(context)?)?;
        out.set(0)
    }

    /// A number that no other context of the process has.
    fn cuCtxGetId(context: Id<Context>, out: Out<u64>) {
        let context = or_current(context)?;
        driver()?.lock().context(context)?;
        out.set(context.raw())
    }

    /// Flags of the current context.
    fn cuCtxGetFlags(out: Out<u32>) {
        let current = current()?;
        out.set(current.state.context(current.context)?.flags)
    }

    /// Sets the flags of the current context.
    fn cuCtxSetFlags(flags: u32) {
        let mut current = current()?;
        if flags & !FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        current.state.context_mut(current.context)?.flags = flags;
        Ok(())
    }

    /// Runs everything that the current context's streams hold.
    fn cuCtxSynchronize() {
        synchronize(Id::NULL)
    }

    /// Runs everything that a context's streams hold.
    fn cuCtxSynchronize_v2(context: Id<Context>) {
        synchronize(context)
    }

    /// A limit of the current context.
    fn cuCtxGetLimit(out: Out<usize>, limit: u32) {
        let current = current()?;
        let limits = &current.state.context(current.context)?.limits;
        out.set(*limits.get(&limit).ok_or(Status::UNSUPPORTED_LIMIT)?)
    }

    /// Sets a limit of the current context. Kernels get what they need whatever it says.
    fn cuCtxSetLimit(limit: u32, value: usize) {
        let mut current = current()?;
        let context = current.context;
        let limits = &mut current.state.context_mut(context)?.limits;
        *limits.get_mut(&limit).ok_or(Status::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }

    /// The preferred split of L1 and shared memory.
    fn cuCtxGetCacheConfig(out: Out<u32>) {
        let current = current()?;
        out.set(current.state.context(current.context)?.cache_config)
    }

    /// Sets the preferred split of L1 and shared memory.
    fn cuCtxSetCacheConfig(config: u32) {
        let mut current = current()?;
        if config > 3 {
            return Err(Status::INVALID_VALUE);
        }
        current.state.context_mut(current.context)?.cache_config = config;
        Ok(())
    }

    /// The width of shared memory banks.
    fn cuCtxGetSharedMemConfig(out: Out<u32>) {
        let current = current()?;
        out.set(current.state.context(current.context)?.shared_config)
    }

    /// Sets the width of shared memory banks, which this device does not have.
    fn cuCtxSetSharedMemConfig(config: u32) {
        let mut current = current()?;
        if config > 2 {
            return Err(Status::INVALID_VALUE);
        }
        current.state.context_mut(current.context)?.shared_config = config;
        Ok(())
    }

    /// The least and the greatest priority of a stream.
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.offer(super::stream::LEAST_PRIORITY);
        greatest.offer(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    /// The version of the API that a context was made for.
    fn cuCtxGetApiVersion(context: Id<Context>, out: Out<u32>) {
        driver()?.lock().context(or_current(context)?)?;
        out.set(API_VERSION)
    }

    /// Persisting lines of L2, of which there are none.
    fn cuCtxResetPersistingL2Cache() {
        current()?;
        Ok(())
    }

    /// Peers of the only device.
    fn cuCtxEnablePeerAccess(peer: Id<Context>, flags: u32) {
        let current = current()?;
        current.state.context(peer)?;
        // Contexts of one device reach each other's memory as it is.
        Err(if flags == 0 { Status::PEER_ACCESS_UNSUPPORTED } else { Status::INVALID_VALUE })
    }

    /// Peers of the only device.
    fn cuCtxDisablePeerAccess(peer: Id<Context>) {
        let current = current()?;
        current.state.context(peer)?;
        Err(Status::PEER_ACCESS_NOT_ENABLED)
    }
}

fn synchronize(context: Id<Context>) -> Outcome {
    let driver = driver()?;
    let context = or_current(context)?;
    let mut state = driver.lock();
    state.healthy(context)?;
    state.permit_sync(context)?;
    let state = driver.drive_context(state, context);
    state.healthy(context)
}

/// `CUctxCreateParams`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CreateParams {
    affinities: usize,
    affinity_count: i32,
    graphics: usize,
}
