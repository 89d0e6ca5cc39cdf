//! The recorder and the model behind `power_cuts_replayed`, tried on programs whose fate is known: who forgets a sync
//! loses, who syncs does not. Such a program is this test binary itself, started again below the recorder.

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::replay::{Cut, Log, Luck, Model, Names, Recorder, Rule, op};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Which program, and where it writes.
const PROGRAM: &str = "RELAY_TEST_PROGRAM";
const DIRECTORY: &str = "RELAY_TEST_DIRECTORY";

const TEXT: [u8; 10_000] = [7; 10_000];

#[test]
#[ignore = "the programs that the tests below record"]
fn program() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let path = directory.join("file");
    let sync_directory = || File::open(&directory).unwrap().sync_all().unwrap();
    let write = || {
        let mut file = File::create(&path).unwrap();
        file.write_all(&TEXT).unwrap();
        file
    };
    match std::env::var(PROGRAM).unwrap().as_str() {
        "syncs" => {
            write().sync_all().unwrap();
            sync_directory();
        }
        "forgets the file" => {
            write();
            sync_directory();
        }
        "forgets the directory" => write().sync_data().unwrap(),
        "syncs before it writes" => {
            let file = write();
            file.sync_all().unwrap();
            sync_directory();
            file.write_all_at(&[8; 5000], 2000).unwrap();
        }
        "replaces" => {
            write().sync_all().unwrap();
            sync_directory();
            fs::write(directory.join("new"), [9; 3000]).unwrap();
            fs::rename(directory.join("new"), &path).unwrap();
            sync_directory();
        }
        "syncs again after an error" => {
            let file = write();
            assert!(file.sync_all().is_err());
            file.sync_all().unwrap();
            sync_directory();
        }
        "does everything" => everything(&directory),
        other => panic!("{other:?}"),
    }
}

/// What the standard library has to change files with.
fn everything(directory: &Path) {
    let inner = directory.join("a/b");
    fs::create_dir_all(&inner).unwrap();
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(inner.join("appended"))
        .unwrap();
    file.write_all(b"one").unwrap();
    let slices = [IoSlice::new(b"two"), IoSlice::new(b"three")];
    assert_eq!(file.write_vectored(&slices).unwrap(), 8);
    file.try_clone().unwrap().write_all(b"four").unwrap();
    file.set_len(5).unwrap();
    file.set_len(9000).unwrap();
    fs::copy(inner.join("appended"), inner.join("copied")).unwrap();
    fs::hard_link(inner.join("copied"), inner.join("linked")).unwrap();
    fs::rename(&inner, directory.join("c")).unwrap();
    fs::remove_file(directory.join("c/copied")).unwrap();
    File::create(directory.join("c/linked"))
        .unwrap()
        .write_all_at(b"far", 20_000)
        .unwrap();
    fs::create_dir_all(directory.join("d/e")).unwrap();
    fs::write(directory.join("d/e/f"), "gone").unwrap();
    fs::remove_dir_all(directory.join("d")).unwrap();
    std::env::set_current_dir(directory).unwrap();
    fs::write("./c/../relative", "path").unwrap();
    fs::remove_dir("a").unwrap();
}

/// What `program` did.
fn record(program: &str, rule: Option<Rule<'_>>) -> Log {
    let home = tempfile::tempdir().unwrap();
    let home_path = home.path().canonicalize().unwrap();
    let root = home_path.join("disk");
    fs::create_dir(&root).unwrap();
    let recorder = Recorder::new(&root, &home_path).unwrap();
    if let Some(rule) = rule {
        recorder.fail(0, rule);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program", "--ignored", "--nocapture"])
        .env(PROGRAM, program)
        .env(DIRECTORY, &root)
        .envs(recorder.environment().unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let log = recorder.log().unwrap();
    Model::explains(&log, None, &root).unwrap();
    log
}

/// The file `file` in 200 states after the whole of `log`: the different contents, with how often.
fn states(log: &Log, names: Names) -> Vec<Option<Vec<u8>>> {
    let states = (0..200).map(|seed| {
        let target = tempfile::tempdir().unwrap();
        let at = log.records.len();
        let luck = Luck::draw(at, &mut StdRng::seed_from_u64(seed));
        let cut = Cut {
            seed,
            at,
            moment_ns: u64::MAX,
            names,
            luck,
        };
        cut.materialise(log, None, target.path()).unwrap();
        fs::read(target.path().join("file")).ok()
    });
    states.collect()
}

fn whole(state: Option<&Vec<u8>>) -> bool {
    state.is_some_and(|s| s.as_slice() == TEXT)
}

const BOTH: [Names; 2] = [Names::Strict, Names::Journal];

#[test]
fn who_syncs_file_and_directory_loses_nothing() {
    let log = record("syncs", None);
    for names in BOTH {
        assert!(
            states(&log, names)
                .iter()
                .all(|s: &Option<Vec<u8>>| whole(s.as_ref())),
            "{names:?}"
        );
    }
}

#[test]
fn who_forgets_to_sync_the_file_loses_it_in_many_ways() {
    let log = record("forgets the file", None);
    for names in BOTH {
        let states = states(&log, names);
        assert!(states.iter().all(Option::is_some), "its name was synced");
        assert!(
            states.iter().any(|s: &Option<Vec<u8>>| whole(s.as_ref())),
            "it may be there"
        );
        assert!(states.contains(&Some(Vec::new())), "it may be empty");
        let same_size = |s: &Option<Vec<u8>>| s.as_ref().is_some_and(|s| s.len() == TEXT.len());
        let holes = |s: &&Option<Vec<u8>>| same_size(s) && !whole(s.as_ref());
        assert!(
            states.iter().any(|s| holes(&s)),
            "its size may be there and its pages not"
        );
    }
}

#[test]
fn who_forgets_the_directory_loses_the_file_where_posix_is_read_strictly() {
    let log = record("forgets the directory", None);
    let strict = states(&log, Names::Strict);
    assert!(strict.contains(&None) && strict.iter().any(|s: &Option<Vec<u8>>| whole(s.as_ref())));
    assert!(
        strict.iter().flatten().all(|bytes| bytes == &TEXT),
        "its content was synced"
    );
    assert!(
        states(&log, Names::Journal)
            .iter()
            .all(|s: &Option<Vec<u8>>| whole(s.as_ref()))
    );
}

#[test]
fn what_is_written_after_the_sync_may_be_torn_and_what_was_before_is_there() {
    let log = record("syncs before it writes", None);
    let states = states(&log, Names::Strict);
    let mut after = TEXT;
    after[2000..7000].fill(8);
    let mut torn_in_a_page = false;
    for bytes in states.iter().map(|state| state.as_ref().unwrap()) {
        assert_eq!(bytes.len(), TEXT.len());
        let from = |sector: usize, of: &[u8]| {
            let range = sector * 512..((sector + 1) * 512).min(of.len());
            bytes[range.clone()] == of[range]
        };
        let sectors = TEXT.len().div_ceil(512);
        assert!((0..sectors).all(|sector| from(sector, &TEXT) || from(sector, &after)));
        // Sectors 4 to 7 lie in one page.
        let new = (4..8).filter(|sector| from(*sector, &after)).count();
        torn_in_a_page |= (1..4).contains(&new);
    }
    assert!(torn_in_a_page, "a page may be torn");
    assert!(
        states.iter().any(|s: &Option<Vec<u8>>| whole(s.as_ref()))
            && states.contains(&Some(after.to_vec()))
    );
}

#[test]
fn who_renames_an_unsynced_file_over_a_good_one_may_have_neither() {
    let log = record("replaces", None);
    let states = states(&log, Names::Journal);
    assert!(states.contains(&Some(vec![9; 3000])), "the new one");
    assert!(states.contains(&Some(Vec::new())), "a name without content");
    assert!(
        !states.iter().any(|s: &Option<Vec<u8>>| whole(s.as_ref())),
        "the old one is gone, that was synced"
    );
}

#[test]
fn a_sync_that_succeeds_after_one_that_failed_proves_nothing() {
    let rule = Rule {
        ops: op::SYNC,
        path: "/file",
        action: libc::EIO.cast_unsigned(),
        skip: 0,
        times: 1,
    };
    let log = record("syncs again after an error", Some(rule));
    let states = states(&log, Names::Strict);
    assert!(
        states.iter().any(|s: &Option<Vec<u8>>| whole(s.as_ref()))
            && !states.iter().all(|s: &Option<Vec<u8>>| whole(s.as_ref()))
    );
}

#[test]
fn all_that_the_standard_library_does_to_files_is_recorded() {
    // Doing what was recorded must lead to what is there: checked in `record`.
    let log = record("does everything", None);
    assert!(log.records.len() > 20);
}
