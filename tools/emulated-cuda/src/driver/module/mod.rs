//! Modules and their functions.

pub mod fatbin;
pub mod function;
pub mod image;
pub mod jit;
pub mod kernel;
pub mod library;
pub mod link;

use std::{collections::BTreeMap, ffi::CString, sync::Arc};

use super::{
    attributes::SHARED,
    context::Context,
    ffi::{Export, In, Out, Text, exports},
    handles::Id,
    state::{Current, Driver, State, current},
    status::{Outcome, Status},
};
use crate::machine::{self, Kernel};
use image::Failure;
use jit::Jit;

/// The functions that these files export.
pub const ALL_EXPORTS: [&[Export]; 5] =
    [EXPORTS, function::EXPORTS, kernel::EXPORTS, library::EXPORTS, link::EXPORTS];

/// The architecture of the device, as PTX counts it.
const TARGET: u32 = 80;
const EAGER: u32 = 1;

/// A module in a context.
pub struct LoadedModule {
    /// Its context.
    pub context: Id<Context>,
    /// What the machine made of it.
    pub machine: machine::Module,
    /// Handles of its functions by name.
    pub functions: BTreeMap<String, Id<Function>>,
}

/// A function: a kernel of a module and how it is to be launched.
pub struct Function {
    /// Its context.
    pub context: Id<Context>,
    /// Its module.
    pub module: Id<LoadedModule>,
    /// Its kernel.
    pub kernel: Arc<Kernel>,
    /// Its name, for callers that keep the pointer.
    pub name: CString,
    /// Dynamic shared memory that it may be launched with.
    pub max_dynamic_shared: u32,
    /// Preferred share of shared memory, in percent; -1 for none. Changes nothing here.
    pub carveout: i32,
}

/// Loads PTX text into a context.
pub fn load(
    driver: &Driver,
    state: &mut State,
    context: Id<Context>,
    text: &str,
) -> Result<Id<LoadedModule>, Failure> {
    image::check_version(text, driver.device.options.cuda_version)?;
    let machine = machine::Module::load(&driver.device, text).map_err(Failure::from)?;
    if let Some(kernel) = machine.kernels.values().find(|kernel| kernel.target > TARGET) {
        let message = format!("PTX for sm_{} cannot run on this device, which is sm_{TARGET}", kernel.target);
        machine.unload(&driver.device);
        return Err(Failure { status: Status::INVALID_PTX, message });
    }
    let kernels: BTreeMap<_, _> =
        machine.kernels.iter().map(|(name, kernel)| (name.clone(), kernel.clone())).collect();
    let module = state.modules.insert(LoadedModule { context, machine, functions: BTreeMap::new() });
    let mut functions = BTreeMap::new();
    for (name, kernel) in kernels {
        let function = Function {
            context,
            module,
            max_dynamic_shared: SHARED.saturating_sub(kernel.static_shared),
            kernel,
            // A name in PTX has no NUL.
            name: CString::new(name.clone()).unwrap_or_default(),
            carveout: -1,
        };
        functions.insert(name, state.functions.insert(function));
    }
    if let Ok(loaded) = state.modules.get_mut(module) {
        loaded.functions = functions;
    }
    Ok(module)
}

/// Takes a module out of its context. What its streams hold has run.
pub fn unload(driver: &Driver, state: &mut State, id: Id<LoadedModule>) {
    if let Ok(module) = state.modules.remove(id) {
        state.functions.extract(|function| function.module == id);
        module.machine.unload(&driver.device);
    }
}

/// The modules of a context.
pub fn of_context(state: &State, context: Id<Context>) -> Vec<Id<LoadedModule>> {
    state.modules.iter().filter(|(_, module)| module.context == context).map(|(id, _)| id).collect()
}

fn load_image(out: Out<Id<LoadedModule>>, image: Result<String, Failure>, jit: &Jit) -> Outcome {
    let Current { driver, mut state, context } = current()?;
    let module = image.and_then(|text| load(driver, &mut state, context, &text));
    out.set(jit.log(module)?)
}

/// The variable of a module: address and size.
pub fn global(state: &State, module: Id<LoadedModule>, name: &str) -> Outcome<(u64, u64)> {
    let globals = &state.modules.get(module)?.machine.globals;
    globals.get(name).copied().ok_or(Status::NOT_FOUND)
}

exports! {
    /// Loads a file.
    fn cuModuleLoad(out: Out<Id<LoadedModule>>, path: Text) {
        out.check()?;
        current()?;
        let bytes = std::fs::read(path.get()?).map_err(|_| Status::FILE_NOT_FOUND)?;
        load_image(out, image::from_bytes(&bytes), &Jit::default())
    }

    /// Loads PTX text or a fatbin.
    fn cuModuleLoadData(out: Out<Id<LoadedModule>>, image: In<u8>) {
        out.check()?;
        current()?;
        load_image(out, image::from_memory(image)?, &Jit::default())
    }

    /// Loads PTX text or a fatbin and says in the caller's buffers what is wrong with it.
    fn cuModuleLoadDataEx(
        out: Out<Id<LoadedModule>>,
        image: In<u8>,
        count: u32,
        options: In<u32>,
        values: Out<usize>,
    ) {
        out.check()?;
        current()?;
        let jit = Jit::read(count, options, values)?;
        load_image(out, image::from_memory(image)?, &jit)
    }

    /// Loads a fatbin.
    fn cuModuleLoadFatBinary(out: Out<Id<LoadedModule>>, image: In<u8>) {
        out.check()?;
        current()?;
        load_image(out, image::from_memory(image)?, &Jit::default())
    }

    /// Ends a module, once everything that may use it has run.
    fn cuModuleUnload(module: Id<LoadedModule>) {
        let Current { driver, mut state, context } = current()?;
        let owner = state.modules.get(module)?.context;
        if state.libraries.iter().any(|(_, library)| library.modules.values().any(|&m| m == module)) {
            return Err(Status::NOT_PERMITTED);
        }
        state = driver.drive_context(state, owner);
        unload(driver, &mut state, module);
        state.healthy(context)
    }

    /// When modules are loaded: at once.
    fn cuModuleGetLoadingMode(out: Out<u32>) {
        super::state::driver()?;
        out.set(EAGER)
    }

    /// A function by its name, in whatever context the module is: threads without a current one may ask too, as
    /// they do on hardware (candle's `tensor_send_sync`).
    fn cuModuleGetFunction(out: Out<Id<Function>>, module: Id<LoadedModule>, name: Text) {
        out.check()?;
        let state = super::state::driver()?.lock();
        let name = name.get()?;
        let module = state.modules.get(module)?;
        state.healthy(module.context)?;
        out.set(*module.functions.get(&name).ok_or(Status::NOT_FOUND)?)
    }

    /// How many functions a module has.
    fn cuModuleGetFunctionCount(out: Out<u32>, module: Id<LoadedModule>) {
        let current = current()?;
        out.set(current.state.modules.get(module)?.functions.len() as u32)
    }

    /// Functions of a module, as many as there is room for.
    fn cuModuleEnumerateFunctions(out: Out<Id<Function>>, room: u32, module: Id<LoadedModule>) {
        let current = current()?;
        out.set_all(current.state.modules.get(module)?.functions.values().copied().take(room as usize))
    }

    /// A variable by its name.
    fn cuModuleGetGlobal_v2(address: Out<u64>, size: Out<usize>, module: Id<LoadedModule>, name: Text) {
        let current = current()?;
        let name = name.get()?;
        if address.is_null() && size.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let (start, bytes) = global(&current.state, module, &name)?;
        address.offer(start);
        size.offer(bytes as usize);
        Ok(())
    }
}
