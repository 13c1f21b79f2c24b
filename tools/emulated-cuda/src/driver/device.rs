//! The device: initialisation, version, name and numbers.

use super::{
    attributes,
    ffi::{In, Out, Text, exports},
    handles::Id,
    state::{self, driver},
    status::{Outcome, Status},
};
use crate::machine::{CUDA_VERSION, Options};

/// A device, by its number.
pub type Ordinal = i32;

/// The CUDA version that the API is of: 13.0.
pub const VERSION: i32 = number_of(CUDA_VERSION);
const NAME: &str = "Emulated CUDA device";
/// "emulated-cuda" and a version, as bytes.
const UUID: [u8; 16] = *b"emulated-cuda\0\x08\0";
const PCI_BUS_ID: &str = "0000:01:00.0";

/// A version as the API writes it: 13.0 is 13000.
const fn number_of((major, minor): (u32, u32)) -> i32 {
    (major * 1000 + minor * 10) as i32
}

/// Refuses every device but the one that there is.
pub fn check_device(device: Ordinal) -> Outcome {
    if device == 0 { Ok(()) } else { Err(Status::INVALID_DEVICE) }
}

/// `CUdevprop`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    max_threads: i32,
    max_block: [i32; 3],
    max_grid: [i32; 3],
    shared: i32,
    constant: i32,
    warp: i32,
    pitch: i32,
    registers: i32,
    clock: i32,
    alignment: i32,
}

fn attribute(which: u32) -> Outcome<i32> {
    attributes::get(which, &driver()?.device.options)
}

exports! {
    /// Starts the driver, with the options of [`crate::install`], else those of the environment. Without a device it does not start.
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let driver = match state::started() {
            Some(driver) => driver,
            None => {
                let options = Options::from_env().map_err(|error| {
                    eprintln!("emulated-cuda: {error}");
                    Status::INVALID_VALUE
                })?;
                state::start(|| options)
            }
        };
        if driver.device.options.devices == 0 {
            return Err(Status::NO_DEVICE);
        }
        state::initialise();
        Ok(())
    }

    /// The CUDA version of the driver, which need not have started.
    fn cuDriverGetVersion(out: Out<i32>) {
        let version = match state::started() {
            Some(driver) => driver.device.options.cuda_version,
            None => Options::from_env().map_or(CUDA_VERSION, |options| options.cuda_version),
        };
        out.set(number_of(version))
    }

    /// The number of devices: one.
    fn cuDeviceGetCount(out: Out<i32>) {
        driver()?;
        out.set(1)
    }

    /// A device by its number.
    fn cuDeviceGet(out: Out<Ordinal>, ordinal: i32) {
        driver()?;
        out.check()?;
        check_device(ordinal)?;
        out.set(ordinal)
    }

    /// The name of the device, cut to the caller's buffer.
    fn cuDeviceGetName(out: Out<u8>, room: i32, device: Ordinal) {
        driver()?;
        check_device(device)?;
        out.set_text(NAME, usize::try_from(room).unwrap_or(0))
    }

    /// The identity of the device.
    alias(cuDeviceGetUuid)
    fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, device: Ordinal) {
        driver()?;
        check_device(device)?;
        out.set(UUID)
    }

    /// The identity of a device on Windows, which this is not.
    fn cuDeviceGetLuid(out: Out<[u8; 8]>, mask: Out<u32>, device: Ordinal) {
        driver()?;
        check_device(device)?;
        out.check()?;
        mask.check()?;
        Err(Status::NOT_SUPPORTED)
    }

    /// The bytes of its memory.
    fn cuDeviceTotalMem_v2(out: Out<usize>, device: Ordinal) {
        let driver = driver()?;
        check_device(device)?;
        out.set(driver.device.memory.total() as usize)
    }

    /// An attribute.
    fn cuDeviceGetAttribute(out: Out<i32>, which: u32, device: Ordinal) {
        out.check()?;
        let value = attribute(which);
        driver()?;
        check_device(device)?;
        out.set(value?)
    }

    /// Some of the attributes, in the old structure.
    fn cuDeviceGetProperties(out: Out<Properties>, device: Ordinal) {
        driver()?;
        check_device(device)?;
        out.set(Properties {
            max_threads: attribute(1)?,
            max_block: [attribute(2)?, attribute(3)?, attribute(4)?],
            max_grid: [attribute(5)?, attribute(6)?, attribute(7)?],
            shared: attribute(8)?,
            constant: attribute(9)?,
            warp: attribute(10)?,
            pitch: attribute(11)?,
            registers: attribute(12)?,
            clock: attribute(13)?,
            alignment: attribute(14)?,
        })
    }

    /// The compute capability.
    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: Ordinal) {
        driver()?;
        check_device(device)?;
        major.set(attribute(75)?)?;
        minor.set(attribute(76)?)
    }

    /// The place of the device on a bus that is not there.
    fn cuDeviceGetPCIBusId(out: Out<u8>, room: i32, device: Ordinal) {
        driver()?;
        check_device(device)?;
        out.set_text(PCI_BUS_ID, usize::try_from(room).unwrap_or(0))
    }

    /// The device at a place on that bus.
    fn cuDeviceGetByPCIBusId(out: Out<Ordinal>, bus_id: Text) {
        driver()?;
        out.check()?;
        let name = bus_id.get()?;
        // The domain and the function may be left out.
        let same = [PCI_BUS_ID, "01:00.0", "0000:01:00", "01:00"].contains(&name.as_str());
        if same { out.set(0) } else { Err(Status::INVALID_DEVICE) }
    }

    /// Whether a device reaches another: there is no other.
    fn cuDeviceCanAccessPeer(out: Out<i32>, device: Ordinal, peer: Ordinal) {
        driver()?;
        check_device(device)?;
        check_device(peer)?;
        out.set(0)
    }

    /// How a device reaches another: there is no other.
    fn cuDeviceGetP2PAttribute(out: Out<i32>, which: u32, device: Ordinal, peer: Ordinal) {
        driver()?;
        out.check()?;
        check_device(device)?;
        check_device(peer)?;
        Err(if (1..=5).contains(&which) { Status::INVALID_DEVICE } else { Status::INVALID_VALUE })
    }

    /// Whether contexts can be confined to some multiprocessors.
    fn cuDeviceGetExecAffinitySupport(out: Out<i32>, _kind: u32, device: Ordinal) {
        driver()?;
        check_device(device)?;
        out.set(0)
    }

    /// Memory that graphs have allocated: none.
    fn cuDeviceGetGraphMemAttribute(device: Ordinal, which: u32, out: Out<u64>) {
        driver()?;
        check_device(device)?;
        if which > 3 {
            return Err(Status::INVALID_VALUE);
        }
        out.set(0)
    }

    /// Resets the marks of memory that graphs have allocated.
    fn cuDeviceSetGraphMemAttribute(device: Ordinal, which: u32, value: In<u64>) {
        driver()?;
        check_device(device)?;
        if matches!(which, 1 | 3) && value.get()? == 0 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    /// Gives back memory that graphs hold in reserve: none.
    fn cuDeviceGraphMemTrim(device: Ordinal) {
        driver()?;
        check_device(device)
    }

    /// The enumerator of a status.
    fn cuGetErrorName(status: Status, out: Out<*const std::ffi::c_char>) {
        named(status.name(), out)
    }

    /// The text of a status.
    fn cuGetErrorString(status: Status, out: Out<*const std::ffi::c_char>) {
        named(status.describe(), out)
    }

    /// Starts profiling: launches are counted anyhow, where the options say so.
    fn cuProfilerStart() {
        state::current().map(drop)
    }

    /// Stops profiling.
    fn cuProfilerStop() {
        state::current().map(drop)
    }

    /// Tables of functions that NVIDIA's libraries know by number. There are none.
    fn cuGetExportTable(out: Out<Id<()>>, table: In<[u8; 16]>) {
        out.check()?;
        table.get()?;
        out.set(Id::NULL)?;
        Err(Status::NOT_SUPPORTED)
    }

    /// Orders writes of other devices: there are none.
    fn cuFlushGPUDirectRDMAWrites(_target: u32, _scope: u32) {
        state::current()?;
        Err(Status::NOT_SUPPORTED)
    }
}

fn named(text: Option<&'static std::ffi::CStr>, out: Out<*const std::ffi::c_char>) -> Outcome {
    match text {
        Some(text) => out.set(text.as_ptr()),
        None => {
            out.set(std::ptr::null())?;
            Err(Status::INVALID_VALUE)
        }
    }
}
