//! Settings of the environment.

use cuda::machine::{Checks, CountersOutput, Options};

fn options(variables: &[(&str, &str)]) -> Result<Options, String> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Options::from_variables(variables).map_err(|error| error.to_string())
}

#[test]
fn every_setting_is_read() {
    let read = options(&[
        ("HOME", "/"),
        ("EMULATED_CUDA_CHECKS", "races, leaks"),
        ("EMULATED_CUDA_COUNTERS", "/tmp/c.json"),
        ("EMULATED_CUDA_SEED", "18446744073709551615"),
        ("EMULATED_CUDA_THREADS", "3"),
        ("EMULATED_CUDA_INSTRUCTION_LIMIT", "1000"),
        ("EMULATED_CUDA_MEMORY", "512M"),
        ("EMULATED_CUDA_SM_COUNT", "132"),
        ("EMULATED_CUDA_DEVICES", "0"),
        ("EMULATED_CUDA_VERSION", "12.4"),
    ]);
    let expected = Options {
        checks: Checks { races: true, leaks: true, ..Checks::NONE },
        counters: true,
        counters_output: Some(CountersOutput::File("/tmp/c.json".into())),
        seed: u64::MAX,
        threads: 3,
        instruction_limit: 1000,
        memory_bytes: 512 << 20,
        sm_count: 132,
        devices: 0,
        cuda_version: (12, 4),
    };
    assert_eq!(read, Ok(expected));
    assert_eq!(options(&[]), Ok(Options::default()));
    assert_eq!(options(&[("EMULATED_CUDA_CHECKS", "none")]).unwrap().checks, Checks::NONE);
    let table = options(&[("EMULATED_CUDA_COUNTERS", "-")]).unwrap();
    assert_eq!(table.counters_output, Some(CountersOutput::Stderr));
}

#[test]
fn bad_settings_name_the_variable() {
    for (name, value) in [
        ("CHECKS", "race"),
        ("CHECKS", ""),
        ("COUNTERS", ""),
        ("SEED", "-1"),
        ("THREADS", "many"),
        ("INSTRUCTION_LIMIT", "0"),
        ("MEMORY", "8T"),
        ("MEMORY", "17179869184G"),
        ("MEMORY", "é"),
        ("MEMORY", ""),
        ("SM_COUNT", "0"),
        ("SMS", "4"),
        ("DEVICES", "2"),
        ("VERSION", "12"),
        ("VERSION", "10.2"),
        ("VERSION", "11.9"),
        ("VERSION", "13.1"),
    ] {
        let name = format!("EMULATED_CUDA_{name}");
        let error = options(&[(&name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
    }
}
