//! Libraries: images that every context loads when it first uses them.

use std::{collections::BTreeMap, ffi::CString, sync::Arc};

use super::{
    super::{
        context::Context,
        ffi::{In, Out, Text, exports},
        handles::Id,
        state::{CONTEXTS, Current, current, driver},
        status::{Outcome, Status},
    },
    LoadedModule,
    image::{self, Failure},
    jit::Jit,
    kernel::LibraryKernel,
};

/// A library.
pub struct Library {
    text: Arc<str>,
    /// Its modules by context.
    pub modules: BTreeMap<Id<Context>, Id<LoadedModule>>,
    kernels: BTreeMap<String, Id<LibraryKernel>>,
}

/// The module of a library in the current context, loaded where it is not there yet.
pub fn module(current: &mut Current, library: Id<Library>) -> Outcome<Id<LoadedModule>> {
    let found = current.state.libraries.get(library)?;
    if let Some(&module) = found.modules.get(&current.context)
        && current.state.modules.contains(module)
    {
        return Ok(module);
    }
    let text = found.text.clone();
    let loaded = super::load(current.driver, &mut current.state, current.context, &text);
    let module = Jit::default().log(loaded)?;
    current.state.libraries.get_mut(library)?.modules.insert(current.context, module);
    Ok(module)
}

/// The names of the kernels of a text that no context has loaded.
fn kernel_names(text: &str) -> Result<Vec<String>, Failure> {
    let parsed =
        crate::ptx::parse(text).map_err(|error| Failure::from(crate::machine::LoadError::from(error)))?;
    let kernels =
        parsed.functions.into_iter().filter(|function| function.is_entry && function.body.is_some());
    Ok(kernels.map(|function| function.name).collect())
}

fn load(out: Out<Id<Library>>, image: Result<String, Failure>, jit: &Jit) -> Outcome {
    let driver = driver()?;
    let text = jit.log(image)?;
    jit.log(image::check_version(&text, driver.device.options.cuda_version))?;
    let context = CONTEXTS.with_borrow(|stack| stack.last().copied());
    let mut state = driver.lock();
    let mut modules = BTreeMap::new();
    let names = match context.filter(|&context| state.healthy(context).is_ok()) {
        Some(context) => {
            let module = jit.log(super::load(driver, &mut state, context, &text))?;
            modules.insert(context, module);
            state.modules.get(module)?.functions.keys().cloned().collect()
        }
        None => jit.log(kernel_names(&text))?,
    };
    let library = state.libraries.insert(Library { text: text.into(), modules, kernels: BTreeMap::new() });
    let mut kernels = BTreeMap::new();
    for name in names {
        // A name in PTX has no NUL.
        let kernel = LibraryKernel { library, name: CString::new(name.clone()).unwrap_or_default() };
        kernels.insert(name, state.kernels.insert(kernel));
    }
    state.libraries.get_mut(library)?.kernels = kernels;
    out.set(library)
}

/// Reads the options of a library, of which only the number is checked.
fn check_options(count: u32, options: In<u32>) -> Outcome {
    let known = options.all(count as usize)?.into_iter().all(|option| option <= 1);
    if known { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

exports! {
    /// Loads PTX text or a fatbin.
    fn cuLibraryLoadData(
        out: Out<Id<Library>>,
        image: In<u8>,
        jit_options: In<u32>,
        jit_values: Out<usize>,
        jit_count: u32,
        options: In<u32>,
        _values: In<usize>,
        count: u32,
    ) {
        driver()?;
        out.check()?;
        let jit = Jit::read(jit_count, jit_options, jit_values)?;
        check_options(count, options)?;
        load(out, image::from_memory(image)?, &jit)
    }

    /// Loads a file.
    fn cuLibraryLoadFromFile(
        out: Out<Id<Library>>,
        path: Text,
        jit_options: In<u32>,
        jit_values: Out<usize>,
        jit_count: u32,
        options: In<u32>,
        _values: In<usize>,
        count: u32,
    ) {
        driver()?;
        out.check()?;
        let jit = Jit::read(jit_count, jit_options, jit_values)?;
        check_options(count, options)?;
        let bytes = std::fs::read(path.get()?).map_err(|_| Status::FILE_NOT_FOUND)?;
        load(out, image::from_bytes(&bytes), &jit)
    }

    /// Ends a library, once everything that may use it has run.
    fn cuLibraryUnload(library: Id<Library>) {
        let driver = driver()?;
        let mut state = driver.lock();
        let users: Vec<_> = state.libraries.get(library)?.modules.keys().copied().collect();
        for context in users {
            state = driver.drive_context(state, context);
        }
        let gone = state.libraries.remove(library)?;
        state.kernels.extract(|kernel| kernel.library == library);
        for module in gone.modules.into_values() {
            super::unload(driver, &mut state, module);
        }
        Ok(())
    }

    /// A kernel by its name.
    fn cuLibraryGetKernel(out: Out<Id<LibraryKernel>>, library: Id<Library>, name: Text) {
        out.check()?;
        let state = driver()?.lock();
        let kernels = &state.libraries.get(library)?.kernels;
        out.set(*kernels.get(&name.get()?).ok_or(Status::NOT_FOUND)?)
    }

    /// How many kernels a library has.
    fn cuLibraryGetKernelCount(out: Out<u32>, library: Id<Library>) {
        out.set(driver()?.lock().libraries.get(library)?.kernels.len() as u32)
    }

    /// Kernels of a library, as many as there is room for.
    fn cuLibraryEnumerateKernels(out: Out<Id<LibraryKernel>>, room: u32, library: Id<Library>) {
        let state = driver()?.lock();
        out.set_all(state.libraries.get(library)?.kernels.values().copied().take(room as usize))
    }

    /// The module of a library in the current context.
    fn cuLibraryGetModule(out: Out<Id<LoadedModule>>, library: Id<Library>) {
        out.check()?;
        out.set(module(&mut current()?, library)?)
    }

    /// A variable of a library in the current context.
    fn cuLibraryGetGlobal(address: Out<u64>, size: Out<usize>, library: Id<Library>, name: Text) {
        let mut current = current()?;
        let name = name.get()?;
        let module = module(&mut current, library)?;
        let (start, bytes) = super::global(&current.state, module, &name)?;
        address.offer(start);
        size.offer(bytes as usize);
        Ok(())
    }

    /// A managed variable of a library: PTX that this device runs has none.
    fn cuLibraryGetManaged(_address: Out<u64>, _size: Out<usize>, library: Id<Library>, name: Text) {
        name.get()?;
        driver()?.lock().libraries.get(library)?;
        Err(Status::NOT_FOUND)
    }

    /// A function that host and device share: there are none.
    fn cuLibraryGetUnifiedFunction(_out: Out<usize>, library: Id<Library>, name: Text) {
        name.get()?;
        driver()?.lock().libraries.get(library)?;
        Err(Status::NOT_FOUND)
    }
}
