//! Functions by name: `cuGetProcAddress`.

use std::ffi::c_void;

use super::{
    device::VERSION,
    exports,
    ffi::{Export, Out, Text, exports},
    status::{Outcome, Status},
};

/// Which symbols belong to a name of the API that has changed over time: the CUDA version from which on the
/// name means the symbol with this suffix, oldest first. Names that are not here mean the symbol of their own
/// name, or its `_v2`, which is older than any program that asks for it by name.
const CHANGED: &[(&str, &[(i32, &str)])] = &[
    ("cuCtxCreate", &[(3020, "_v2"), (11040, "_v3"), (12050, "_v4")]),
    ("cuCtxGetDevice", &[(2000, ""), (13000, "_v2")]),
    ("cuCtxSynchronize", &[(2000, ""), (13000, "_v2")]),
    ("cuDeviceGetUuid", &[(9020, ""), (11040, "_v2")]),
    ("cuEventElapsedTime", &[(2000, ""), (12080, "_v2")]),
    ("cuGetProcAddress", &[(11030, ""), (12000, "_v2")]),
    ("cuGraphAddDependencies", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphAddKernelNode", &[(10000, ""), (12000, "_v2")]),
    ("cuGraphAddNode", &[(12020, ""), (12030, "_v2")]),
    ("cuGraphExecKernelNodeSetParams", &[(10010, ""), (12000, "_v2")]),
    ("cuGraphExecUpdate", &[(10020, ""), (12000, "_v2")]),
    ("cuGraphGetEdges", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphInstantiate", &[(10000, ""), (11000, "_v2"), (12000, "WithFlags")]),
    ("cuGraphKernelNodeGetParams", &[(10000, ""), (12000, "_v2")]),
    ("cuGraphKernelNodeSetParams", &[(10000, ""), (12000, "_v2")]),
    ("cuGraphNodeGetDependencies", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphNodeGetDependentNodes", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphRemoveDependencies", &[(10000, ""), (12030, "_v2")]),
    ("cuMemAdvise", &[(8000, ""), (12020, "_v2")]),
    ("cuMemPrefetchAsync", &[(8000, ""), (12020, "_v2")]),
    ("cuMemcpy3DBatchAsync", &[(13000, "_v2")]),
    ("cuMemcpyBatchAsync", &[(13000, "_v2")]),
    ("cuStreamGetCaptureInfo", &[(11030, "_v2"), (12030, "_v3")]),
    ("cuStreamGetCtx", &[(9020, ""), (12050, "_v2")]),
    ("cuStreamUpdateCaptureDependencies", &[(12030, "_v2")]),
    ("cuTexRefSetAddress2D", &[(4010, "_v3")]),
];

/// Flags: the null stream is the legacy one, or the thread's own.
const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;
/// `CUdriverProcAddressQueryResult`
const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;
const VERSION_NOT_SUFFICIENT: u32 = 2;

fn export(name: &str) -> Option<&'static Export> {
    exports().find(|export| export.name == name)
}

/// The function that a name means to a program of a CUDA version, else why there is none.
fn find(name: &str, version: i32, per_thread: bool) -> Result<&'static Export, u32> {
    let symbol = match CHANGED.iter().find(|(changed, _)| *changed == name) {
        Some((_, versions)) => {
            let (_, suffix) =
                versions.iter().rfind(|(since, _)| *since <= version).ok_or(VERSION_NOT_SUFFICIENT)?;
            format!("{name}{suffix}")
        }
        None if export(&format!("{name}_v2")).is_some() => format!("{name}_v2"),
        None => name.to_owned(),
    };
    let variant = ["_ptsz", "_ptds"]
        .into_iter()
        .filter(|_| per_thread)
        .find_map(|end| export(&format!("{symbol}{end}")));
    variant.or_else(|| export(&symbol)).ok_or(NOT_FOUND)
}

fn get(name: Text, out: Out<*const c_void>, version: i32, flags: u64, result: Out<u32>) -> Outcome {
    out.check()?;
    let name = name.get()?;
    if version < 0 || flags & !(LEGACY_STREAM | PER_THREAD_STREAM) != 0 {
        return Err(Status::INVALID_VALUE);
    }
    if version > VERSION {
        out.set(std::ptr::null())?;
        result.offer(VERSION_NOT_SUFFICIENT);
        return Err(Status::INVALID_VALUE);
    }
    match find(&name, version, flags & PER_THREAD_STREAM != 0) {
        Ok(export) => {
            result.offer(FOUND);
            out.set(export.address)
        }
        Err(why) => {
            out.set(std::ptr::null())?;
            result.offer(why);
            // Where the caller can read why, the call itself has succeeded.
            if result.is_null() { Err(Status::NOT_FOUND) } else { Ok(()) }
        }
    }
}

exports! {
    /// A function by its name.
    fn cuGetProcAddress(name: Text, out: Out<*const c_void>, version: i32, flags: u64) {
        get(name, out, version, flags, Out::from_address(0))
    }

    /// A function by its name, and why there is none.
    per_thread(cuGetProcAddress_v2_ptsz, default)
    fn cuGetProcAddress_v2(name: Text, out: Out<*const c_void>, version: i32, flags: u64, result: Out<u32>) {
        let flags = match (flags, default) {
            (0, crate::driver::ffi::DefaultStream::PerThread) => PER_THREAD_STREAM,
            _ => flags,
        };
        get(name, out, version, flags, result)
    }
}
