//! Learning rates against transformers' `get_scheduler`.

use std::path::Path;

use serde_json::Value;
use warptune::optim::schedule::{Schedule, ScheduleKind};

#[test]
fn rates_are_those_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ops/schedules.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let kind: ScheduleKind = match case["schedule"].as_str().unwrap() {
            "constant" => ScheduleKind::Constant,
            "linear" => ScheduleKind::Linear,
            "cosine" => ScheduleKind::Cosine,
            other => panic!("golden schedule '{other}'"),
        };
        let steps = |key: &str| case[key].as_u64().unwrap();
        let schedule = Schedule {
            kind,
            peak: 3e-4,
            warmup_steps: steps("warmup_steps"),
            total_steps: steps("total_steps"),
        };
        for (step, factor) in case["factors"].as_array().unwrap().iter().enumerate() {
            let (rate, expected) = (schedule.rate(step as u64), 3e-4 * factor.as_f64().unwrap());
            // The cosine may differ by an ulp between libraries; near its end that ulp of 1 + cos(x) is what is left.
            let tolerance = 3e-4 * 2.0 * f64::EPSILON;
            assert!(
                (rate - expected).abs() <= tolerance,
                "{case} at step {step}: {rate:e}, expected {expected:e}"
            );
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} rates in the golden file");
}
