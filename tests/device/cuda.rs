//! CUDA devices: that they are found, and what is said where there are none.

use std::process::Command;

use warptune::device::Device;
use warptune::device::cuda::{CudaDevice, device_count, driver_present};

use crate::support::devices::cuda;

#[test]
fn the_device_says_what_it_is() {
    let device = cuda().cuda().unwrap();
    assert!(driver_present());
    assert!(device_count().unwrap() >= 1);
    let properties = device.properties();
    assert!(!properties.name.is_empty() && properties.capability >= (8, 0));
    assert!(properties.multiprocessors >= 1 && properties.memory > 1 << 20);
    assert!(properties.shared_memory >= 99 << 10, "{properties:?}");
    assert!(std::ptr::eq(device, CudaDevice::get(0).unwrap()), "opened once");
}

#[test]
fn devices_that_are_not_there_are_named() {
    let count = {
        cuda();
        device_count().unwrap()
    };
    let error = Device::Cuda(count).cuda().err().unwrap().to_string();
    assert_eq!(error, format!("cuda: device {count}: there are {count}, numbered from 0"));
    let error = Device::Cpu.cuda().err().unwrap().to_string();
    assert_eq!(error, "cuda: device cpu: a CUDA device is expected");
}

#[test]
fn names_are_read_back() {
    for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
        assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
    }
    assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
    for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
        assert!(bad.parse::<Device>().unwrap_err().to_string().contains("cpu, cuda, cuda:N"), "{bad}");
    }
}

/// Runs in a process of its own, for the emulated driver cannot be taken out of this one.
#[test]
#[ignore = "run by without_a_driver_the_error_says_what_to_do"]
fn in_a_process_without_a_driver() {
    match device_count() {
        Ok(count) => println!("a real driver with {count} devices"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn without_a_driver_the_error_says_what_to_do() {
    let name = "device::cuda::in_a_process_without_a_driver";
    let arguments = ["--exact", name, "--ignored", "--nocapture"];
    // Cargo's own path leads to the emulated driver's shared library.
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(arguments).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let missing = "cuda: driver: no CUDA driver library (libcuda.so) is installed: use the device cpu";
    assert!(text.contains(missing) || text.contains("a real driver"), "{text}");
}
