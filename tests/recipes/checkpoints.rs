//! Checkpoint folders: whole or not at all.

use std::fs;
use std::path::Path;

use warptune::Error;
use warptune::train::checkpoint::Checkpoints;

fn fill(folder: &Path, text: &str) -> warptune::Result<()> {
    fs::create_dir(folder.join("inner")).unwrap();
    fs::write(folder.join("inner/weights"), text).unwrap();
    Ok(())
}

fn steps(checkpoints: &Checkpoints) -> Vec<u64> {
    checkpoints.list().unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 2);
    assert_eq!(checkpoints.latest().unwrap(), None);
    for step in [2, 9, 10, 100] {
        checkpoints.save(step, |f| fill(f, "x")).unwrap();
    }
    assert_eq!(steps(&checkpoints), [10, 100]);
    assert!(checkpoints.latest().unwrap().unwrap().ends_with("checkpoint-100"));
    checkpoints.remove_after(10).unwrap();
    assert_eq!(steps(&checkpoints), [10]);
}

#[test]
fn a_failed_save_leaves_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), 2);
    checkpoints.save(5, |f| fill(f, "good")).unwrap();
    for step in [5, 6] {
        let failed = checkpoints.save(step, |f| {
            fill(f, "half")?;
            Err(Error::config("test", "no space left"))
        });
        assert!(failed.is_err());
    }
    assert_eq!(steps(&checkpoints), [5]);
    assert_eq!(fs::read_to_string(folder.path().join("checkpoint-5/inner/weights")).unwrap(), "good");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no leftovers");
}

#[test]
fn what_a_killed_run_left_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), 0);
    checkpoints.save(5, |f| fill(f, "good")).unwrap();
    for name in ["checkpoint-7.tmp", "checkpoint-07", "checkpoint-x", "other"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    assert_eq!(steps(&checkpoints), [5]);
    checkpoints.remove_leftovers().unwrap();
    assert!(!folder.path().join("checkpoint-7.tmp").exists());
    assert!(folder.path().join("other").exists(), "only our own leftovers are removed");
    checkpoints.save(7, |f| fill(f, "again")).unwrap();
    assert_eq!(steps(&checkpoints), [5, 7]);
}

#[test]
fn a_step_saved_again_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), 0);
    checkpoints.save(5, |f| fill(f, "first")).unwrap();
    let path = checkpoints.save(5, |f| fill(f, "second")).unwrap();
    assert_eq!(fs::read_to_string(path.join("inner/weights")).unwrap(), "second");
}
