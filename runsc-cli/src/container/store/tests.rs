//! Records survive readers, writers and killed commands.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn id(text: &str) -> ContainerId {
    ContainerId::new(text).unwrap()
}

fn state(name: &str) -> ContainerState {
    let process = serde_json::from_str(
        r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":["x"],"cwd":"/"}}"#,
    )
    .map(|spec: oci_spec::runtime::Spec| spec.process().clone().unwrap())
    .unwrap();
    ContainerState {
        oci_version: "1.0.2".to_owned(),
        id: name.to_owned(),
        bundle: PathBuf::from("/b"),
        rootfs: PathBuf::from("/b/rootfs"),
        created: String::new(),
        annotations: BTreeMap::new(),
        owner: 0,
        phase: Phase::Creating,
        paused: false,
        sentry: None,
        gofer: None,
        cgroup: None,
        hooks: None,
        process: crate::container::translate::process::process(&process).unwrap(),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path().join("root"));
    (directory, store)
}

#[test]
fn an_id_is_taken_once() {
    let (_directory, store) = store();
    let entry = store.create(&id("a")).unwrap();
    assert!(store.create(&id("a")).is_err(), "while it is being created");
    entry.write(&state("a")).unwrap();
    drop(entry);
    assert!(store.create(&id("a")).is_err(), "when it was created");
    store.lock(&id("a")).unwrap().unwrap().remove().unwrap();
    assert!(store.create(&id("a")).is_ok(), "when it was deleted");
}

#[test]
fn the_remains_of_a_killed_create_can_be_taken_over() {
    let (_directory, store) = store();
    drop(store.create(&id("a")).unwrap());
    assert!(store.read(&id("a")).unwrap().is_none());
    assert!(store.list().unwrap().is_empty());
    let entry = store.create(&id("a")).unwrap();
    entry.listen().unwrap();
    drop(entry);
    store.create(&id("a")).unwrap().listen().unwrap();
}

#[test]
fn only_one_command_changes_a_container_at_a_time() {
    let (_directory, store) = store();
    let first = store.create(&id("a")).unwrap();
    first.write(&state("a")).unwrap();
    let released = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let entry = store.lock(&id("a")).unwrap().unwrap();
            assert!(released.load(Ordering::SeqCst), "the lock was given to two");
            entry
        });
        // Gives the waiter time to get it wrong; no matter how long, it may never have it now.
        thread::sleep(Duration::from_millis(30));
        released.store(true, Ordering::SeqCst);
        drop(first);
        drop(waiter.join().unwrap());
    });
}

#[test]
fn whoever_waited_for_a_deleted_container_finds_none() {
    let (_directory, store) = store();
    let entry = store.create(&id("a")).unwrap();
    entry.write(&state("a")).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| store.lock(&id("a")).unwrap().is_none());
        thread::sleep(Duration::from_millis(30));
        entry.remove().unwrap();
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn readers_never_see_half_a_record() {
    let (_directory, store) = store();
    let entry = store.create(&id("a")).unwrap();
    let mut record = state("a");
    entry.write(&record).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..500 {
                // Lengths go up and down.
                record.annotations.insert("x".to_owned(), "y".repeat((round * 37) % 5000));
                entry.write(&record).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            assert_eq!(store.read(&id("a")).unwrap().unwrap().id, "a");
        }
    });
}

#[test]
fn sockets_work_below_any_length_of_root() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path().join("long".repeat(50)));
    let name = id(&"i".repeat(200));
    let entry = store.create(&name).unwrap();
    let _listener = entry.listen().unwrap();
    entry.connect().unwrap();
    store.connect(&name).unwrap();
}

#[test]
fn a_container_whose_sentry_is_another_process_now_is_stopped() {
    let mut record = state("a");
    record.phase = Phase::Running;
    assert_eq!(record.status(), Status::Stopped);
    let own = ProcessIdentity::of(std::process::id().cast_signed()).unwrap();
    record.sentry = Some(own);
    assert_eq!((record.status(), record.live_pid()), (Status::Running, own.pid));
    record.paused = true;
    assert_eq!(record.status(), Status::Paused);
    record.sentry = Some(ProcessIdentity { start_ticks: own.start_ticks + 1, ..own });
    assert_eq!((record.status(), record.live_pid()), (Status::Stopped, 0));
}

#[test]
fn damaged_records_are_named_and_do_not_hide_others() {
    let (directory, store) = store();
    for name in ["a", "b"] {
        store.create(&id(name)).unwrap().write(&state(name)).unwrap();
    }
    let path = directory.path().join("root/a/state.json");
    fs::write(&path, "{").unwrap();
    assert!(store.require(&id("a")).unwrap_err().to_string().contains("root/a/state.json"));
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.require(&id("c")).unwrap_err().to_string().starts_with("container does not exist"));
}
