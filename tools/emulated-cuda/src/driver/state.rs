//! The driver's state: one for the process, behind one lock.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    mem::ManuallyDrop,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
};

use super::{
    context::{Context, Primary},
    event::Event,
    graph::{Capture, Exec, Graph},
    handles::{Id, Table},
    memory::pool::Pool,
    module::{Function, LoadedModule, kernel::LibraryKernel, library::Library, link::Link},
    report::Log,
    status::{Outcome, Status},
    stream::Stream,
};
use crate::machine::{Device, Options};

/// The driver.
pub struct Driver {
    /// The device that everything runs on.
    pub device: Arc<Device>,
    /// Held while device work runs: one piece at a time, whichever threads ask.
    pub engine: Mutex<()>,
    /// Told whenever a stream has finished something.
    pub progress: Condvar,
    /// What launches did and what went wrong.
    pub log: Mutex<Log>,
    state: Mutex<State>,
}

/// The state while its lock is held.
pub type Guard = MutexGuard<'static, State>;

/// Memory that a context owns.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    /// Its context.
    pub context: Id<Context>,
    /// The pool that it came from, for stream-ordered allocations.
    pub pool: Option<Id<Pool>>,
    /// Flags that the host allocation was made with.
    pub flags: u32,
    /// Whether a free waits in a stream's queue.
    pub dying: bool,
}

/// Host memory that the program registered.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    /// Its context.
    pub context: Id<Context>,
    /// Bytes.
    pub len: usize,
    /// Flags of the registration.
    pub flags: u32,
}

/// Every object of the driver.
#[derive(Default)]
pub struct State {
    pub contexts: Table<Context>,
    pub primary: Primary,
    pub streams: Table<Stream>,
    pub per_thread_streams: HashMap<(Id<Context>, ThreadId), Id<Stream>>,
    pub events: Table<Event>,
    pub modules: Table<LoadedModule>,
    pub functions: Table<Function>,
    pub libraries: Table<Library>,
    pub kernels: Table<LibraryKernel>,
    pub links: Table<Link>,
    pub graphs: Table<Graph>,
    pub captures: Table<Capture>,
    pub execs: Table<Exec>,
    pub pools: Table<Pool>,
    /// The pool that `cuMemAllocAsync` takes from, and the one that it started with.
    pub current_pool: Id<Pool>,
    pub default_pool: Id<Pool>,
    /// Live allocations by address; the variables of modules are not among them.
    pub allocations: BTreeMap<u64, Owned>,
    /// Registered host memory by address.
    pub registered: BTreeMap<usize, Registered>,
    /// Tickets handed out so far.
    pub tickets: u64,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
static INITIALISED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The contexts that this thread has pushed; the last is current. Never dropped: destructors of the program
    /// that run at the end of a thread or of the process may still call the driver.
    pub static CONTEXTS: RefCell<ManuallyDrop<Vec<Id<Context>>>> =
        const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    /// Whether this thread runs a host function of a stream, which may not call the driver.
    pub static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// The driver of this process, made with these options if there is none yet.
pub fn start(options: impl FnOnce() -> Options) -> &'static Driver {
    DRIVER.get_or_init(|| {
        let device = Device::new(options());
        let mut state = State::default();
        let pool = state.pools.insert(Pool::default());
        (state.current_pool, state.default_pool) = (pool, pool);
        super::report::register_exit();
        Driver {
            device,
            engine: Mutex::default(),
            progress: Condvar::new(),
            log: Mutex::default(),
            state: Mutex::new(state),
        }
    })
}

/// The driver of this process, if it was started.
pub fn started() -> Option<&'static Driver> {
    DRIVER.get()
}

/// Notes that the program called `cuInit`.
pub fn initialise() {
    INITIALISED.store(true, Ordering::Release);
}

/// The driver, for a call that needs it initialised.
pub fn driver() -> Outcome<&'static Driver> {
    if IN_CALLBACK.get() {
        return Err(Status::NOT_PERMITTED);
    }
    match started() {
        Some(driver) if INITIALISED.load(Ordering::Acquire) => Ok(driver),
        _ => Err(Status::NOT_INITIALIZED),
    }
}

impl Driver {
    /// Takes the lock.
    pub fn lock(&'static self) -> Guard {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if nobody has it.
    pub fn try_lock(&'static self) -> Option<Guard> {
        match self.state.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Lets others at the state until a stream has finished something.
    pub fn wait(&'static self, guard: Guard) -> Guard {
        self.progress.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// The log.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in the calling thread's current context.
pub struct Current {
    /// The driver.
    pub driver: &'static Driver,
    /// Its state, locked.
    pub state: Guard,
    /// The context.
    pub context: Id<Context>,
}

/// The current context of this thread, alive and not poisoned by an earlier fault.
pub fn current() -> Outcome<Current> {
    let driver = driver()?;
    let context = CONTEXTS.with_borrow(|stack| stack.last().copied()).ok_or(Status::INVALID_CONTEXT)?;
    let state = driver.lock();
    state.healthy(context)?;
    Ok(Current { driver, state, context })
}

impl State {
    /// A context, alive.
    pub fn context(&self, id: Id<Context>) -> Outcome<&Context> {
        self.contexts.get(id).map_err(|_| Status::INVALID_CONTEXT)
    }

    /// A context, alive, to change it.
    pub fn context_mut(&mut self, id: Id<Context>) -> Outcome<&mut Context> {
        self.contexts.get_mut(id).map_err(|_| Status::INVALID_CONTEXT)
    }

    /// Refuses a context that is gone, or in which a kernel faulted: its error sticks until it is destroyed.
    pub fn healthy(&self, id: Id<Context>) -> Outcome {
        match self.contexts.get(id) {
            Err(_) => Err(Status::CONTEXT_IS_DESTROYED),
            Ok(Context { sticky: Some(status), .. }) => Err(*status),
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls the driver when its thread ends.
    struct Late(std::sync::mpsc::Sender<Option<Status>>);

    impl Drop for Late {
        fn drop(&mut self) {
            let _ = self.0.send(current().err());
        }
    }

    thread_local! {
        static FIRST: RefCell<Option<Late>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
    }

    /// Whichever of a thread's destructors run first, the driver can be called from all of them.
    #[test]
    fn destructors_of_a_thread_can_call_the_driver() {
        start(Options::default);
        initialise();
        let (sender, answers) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            FIRST.set(Some(Late(sender.clone())));
            assert_eq!(current().err(), Some(Status::INVALID_CONTEXT));
            LAST.set(Some(Late(sender)));
        });
        thread.join().expect("the thread ends in order");
        assert_eq!(answers.iter().collect::<Vec<_>>(), [Some(Status::INVALID_CONTEXT); 2]);
    }
}
