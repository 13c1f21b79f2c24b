//! The linker, as far as it is used to compile one PTX text: its "cubin" is the text itself.

use std::ffi::c_char;

use super::{
    super::{
        ffi::{In, Out, Text, exports},
        handles::Id,
        state::{current, driver},
        status::{Outcome, Status},
    },
    image::{self, Failure},
    jit::Jit,
};

const INPUT_PTX: u32 = 1;
const INPUT_FATBIN: u32 = 2;

/// A link in progress.
pub struct Link {
    jit: Jit,
    /// The text, NUL-terminated once it is complete.
    text: Option<Vec<u8>>,
}

// SAFETY: the pointers of the options are used only inside calls that the program makes with this handle, and
// never at once: the state's lock is held.
unsafe impl Send for Link {}

fn add(link: Id<Link>, kind: u32, bytes: Result<Vec<u8>, Status>) -> Outcome {
    let mut state = driver()?.lock();
    let link = state.links.get_mut(link)?;
    let bytes = bytes?;
    let refuse = |message: &str| Failure { status: Status::NOT_SUPPORTED, message: message.into() };
    let text = match kind {
        _ if link.text.is_some() => Err(refuse("linking several inputs is not supported")),
        INPUT_PTX | INPUT_FATBIN => image::from_bytes(&bytes),
        _ => Err(refuse("only PTX and fatbins that hold PTX can be linked")),
    };
    let mut text = link.jit.log(text)?.into_bytes();
    text.push(0);
    link.text = Some(text);
    Ok(())
}

exports! {
    /// Starts a link.
    alias(cuLinkCreate)
    fn cuLinkCreate_v2(count: u32, options: In<u32>, values: Out<usize>, out: Out<Id<Link>>) {
        out.check()?;
        let jit = Jit::read(count, options, values)?;
        out.set(current()?.state.links.insert(Link { jit, text: None }))
    }

    /// Adds an input.
    alias(cuLinkAddData)
    fn cuLinkAddData_v2(
        link: Id<Link>,
        kind: u32,
        data: In<u8>,
        size: usize,
        _name: *const c_char,
        _count: u32,
        _options: In<u32>,
        _values: Out<usize>,
    ) {
        add(link, kind, data.all(size))
    }

    /// Adds a file.
    alias(cuLinkAddFile)
    fn cuLinkAddFile_v2(
        link: Id<Link>,
        kind: u32,
        path: Text,
        _count: u32,
        _options: In<u32>,
        _values: Out<usize>,
    ) {
        let path = path.get()?;
        add(link, kind, std::fs::read(path).map_err(|_| Status::FILE_NOT_FOUND))
    }

    /// Ends the link: an image for `cuModuleLoadData`, which lives as long as the link.
    fn cuLinkComplete(link: Id<Link>, image: Out<*const u8>, size: Out<usize>) {
        image.check()?;
        let state = driver()?.lock();
        let text = state.links.get(link)?.text.as_ref().ok_or(Status::INVALID_VALUE)?;
        image.set(text.as_ptr())?;
        size.offer(text.len());
        Ok(())
    }

    /// Forgets a link.
    fn cuLinkDestroy(link: Id<Link>) {
        driver()?.lock().links.remove(link).map(drop)
    }
}
