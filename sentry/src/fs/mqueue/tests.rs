use std::sync::Arc;

use abi::errno::{EINVAL, EMFILE, ENOMEM, ENOSPC};

use super::accounts::BYTES_MAX;
use super::*;

const UNLIMITED: u64 = u64::MAX;

fn request(uid: u32, privileged: bool, messages: i64, size: i64) -> Request {
    Request { uid, limit: UNLIMITED, privileged, shape: Some((messages, size)) }
}

fn open(accounts: &Arc<Accounts>, request: Request) -> Result<accounts::Charge, abi::errno::Errno> {
    Accounts::open(accounts, request)
}

#[test]
fn shapes_are_bounded_and_by_privilege() {
    let accounts = Arc::<Accounts>::default();
    for (messages, size) in [(0, 1), (1, 0), (-1, 1), (1, -1), (11, 1), (1, 8193)] {
        assert_eq!(
            open(&accounts, request(1, false, messages, size)).err(),
            Some(EINVAL),
            "{messages} {size}"
        );
    }
    assert!(open(&accounts, request(1, false, 10, 8192)).is_ok());
    assert!(open(&accounts, request(1, true, 65_536, 1)).is_ok());
    assert_eq!(open(&accounts, request(1, true, 65_537, 1)).err(), Some(EINVAL));
    assert_eq!(open(&accounts, request(1, true, 1, (16 << 20) + 1)).err(), Some(EINVAL));
}

#[test]
fn a_user_has_his_limit_and_gets_back_what_he_drops() {
    let accounts = Arc::<Accounts>::default();
    let one = Request { limit: 10 * 8192 + 20 * 48, ..request(7, false, 10, 8192) };
    let held = open(&accounts, one).expect("just fits");
    assert_eq!(open(&accounts, one).err(), Some(EMFILE));
    assert!(open(&accounts, Request { uid: 8, ..one }).is_ok(), "another user's account is another");
    drop(held);
    assert!(open(&accounts, one).is_ok());
}

#[test]
fn all_users_together_cannot_take_more_than_the_sandbox_affords() {
    let accounts = Arc::<Accounts>::default();
    let mut held = Vec::new();
    let refused = (0..).find_map(|uid| match open(&accounts, request(uid, true, 1, 1 << 20)) {
        Ok(charge) => {
            held.push(charge);
            None
        }
        Err(errno) => Some(errno),
    });
    assert_eq!(refused, Some(ENOMEM));
    assert!(wide(held.len()) * (1 << 20) <= BYTES_MAX);
    assert_eq!(Accounts::wait(&accounts, 1 << 20).err(), Some(ENOMEM), "waiting senders count as well");
    held.pop();
    assert!(Accounts::wait(&accounts, 1 << 20).is_ok());
}

#[test]
fn queues_are_counted() {
    let accounts = Arc::<Accounts>::default();
    accounts.set_limit(QueueLimit::QueuesMax, "2\n").expect("in range");
    let held: Vec<_> = (0..2).map(|_| open(&accounts, request(1, false, 1, 1)).expect("room")).collect();
    assert_eq!(open(&accounts, request(1, false, 1, 1)).err(), Some(ENOSPC));
    assert!(open(&accounts, request(1, true, 1, 1)).is_ok(), "the privileged have more");
    drop(held);
    for (limit, text) in
        [(QueueLimit::MsgMax, "0"), (QueueLimit::MsgsizeMax, "127"), (QueueLimit::MsgMax, "x")]
    {
        assert_eq!(accounts.set_limit(limit, text), Err(EINVAL));
    }
}

#[test]
fn names_are_names_in_one_directory() {
    assert_eq!(check_name(b"a"), Ok(()));
    assert_eq!(check_name(b""), Err(abi::errno::ENOENT));
    for name in [&b"."[..], b"..", b"a/b", b"/a"] {
        assert_eq!(check_name(name), Err(abi::errno::EACCES));
    }
    assert_eq!(check_name(&[b'x'; 256]), Err(abi::errno::ENAMETOOLONG));
}

#[test]
fn a_listing_goes_on_after_the_last_name_whatever_goes_meanwhile() {
    let queues = MessageQueues::new();
    let directory = queues.directory();
    let make = |name: &[u8]| {
        directory.make(name, Metadata::new(0o600, 0, 0, 1), request(0, true, 1, 1)).expect("room")
    };
    for name in [b"a", b"b", b"c", b"d"] {
        make(name);
    }
    let open = OpenDirectory { directory: Arc::clone(directory), passed: Mutex::new((0, None)) };
    let inode: Arc<dyn Inode> = directory.clone();
    let file = FileDescription::new(Arc::new(super::QueueFile { queue: make(b"e") }), inode, None, 0);
    let mut seen = Vec::new();
    let mut take = |from: u64, limit: usize| {
        let (mut next, mut names) = (from, Vec::new());
        open.read_directory(from, &file, &mut |entry| {
            if names.len() == limit {
                return false;
            }
            names.push(entry.name.to_vec());
            next = entry.next;
            true
        })
        .expect("lists");
        seen.extend(names);
        next
    };
    let next = take(0, 4);
    let victim: Arc<dyn Inode> = directory.find(b"a").expect("is there");
    directory.unlink(b"a", &victim).expect("removes");
    take(next, 10);
    assert_eq!(seen, [&b"."[..], b"..", b"a", b"b", b"c", b"d", b"e"]);
}
