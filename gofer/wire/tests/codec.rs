//! Every message survives its encoding, and no bytes make a decoder panic or accept a value out of range.

use proptest::prelude::*;
use wire::{
    Access, Attr, CreateMode, DeviceNumber, DirEntry, FileSystemStat, FileType, FollowStep, HandleId,
    MAX_AHEAD, MAX_CLUNKS, MAX_MESSAGE, Name, OpenFlags, OpenOutcome, ReadDirFlags, RenameFlags, Reply,
    Request, SetAttr, SetTime, SocketType, SpecialFile, Timestamp, TreeFlags, WalkStep, WalkStop, XattrFlags,
    XattrName, append_clunks,
};

fn name_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..=255).prop_filter("a name", |name| Name::new(name).is_ok())
}

fn handle() -> impl Strategy<Value = HandleId> {
    (1..=u64::MAX).prop_map(HandleId)
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn device() -> impl Strategy<Value = DeviceNumber> {
    (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| DeviceNumber { major, minor })
}

fn attr() -> impl Strategy<Value = Attr> {
    (
        (device(), device(), any::<u64>(), any::<[u32; 5]>(), any::<u64>(), any::<u64>()),
        (timestamp(), timestamp(), timestamp(), prop::option::of(timestamp())),
    )
        .prop_map(|((device, rdev, ino, words, size, blocks), (atime, mtime, ctime, btime))| {
            let [mode, nlink, uid, gid, block_size] = words;
            Attr {
                device,
                ino,
                mode,
                nlink,
                uid,
                gid,
                rdev,
                size,
                blocks,
                block_size,
                atime,
                mtime,
                ctime,
                btime,
            }
        })
}

fn set_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![Just(SetTime::Now), timestamp().prop_map(SetTime::At)]
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    (
        prop::option::of(0..=0o7777u32),
        prop::option::of(0..u32::MAX),
        prop::option::of(0..u32::MAX),
        prop::option::of(0..=i64::MAX as u64),
        prop::option::of(set_time()),
        prop::option::of(set_time()),
    )
        .prop_map(|(mode, uid, gid, size, atime, mtime)| SetAttr { mode, uid, gid, size, atime, mtime })
}

fn mode() -> impl Strategy<Value = CreateMode> {
    (0..=0o7777u32, 0..u32::MAX, 0..u32::MAX).prop_map(|(mode, uid, gid)| CreateMode { mode, uid, gid })
}

fn open() -> impl Strategy<Value = (Access, OpenFlags)> {
    (
        prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite]),
        any::<u32>().prop_map(OpenFlags::from_bits_truncate),
    )
}

fn special_file() -> impl Strategy<Value = SpecialFile> {
    prop_oneof![
        Just(SpecialFile::Regular),
        Just(SpecialFile::Fifo),
        Just(SpecialFile::Socket),
        device().prop_map(SpecialFile::CharacterDevice),
        device().prop_map(SpecialFile::BlockDevice),
    ]
}

/// Everything requests are made of.
#[derive(Debug)]
struct Pieces {
    names: Vec<Vec<u8>>,
    handles: [HandleId; 2],
    open: (Access, OpenFlags),
    mode: CreateMode,
    kind: SpecialFile,
    socket: SocketType,
    changes: SetAttr,
    bytes: Vec<u8>,
    number: u64,
    clunks: Vec<HandleId>,
}

fn pieces() -> impl Strategy<Value = Pieces> {
    (
        prop::collection::vec(name_bytes(), 2..=16),
        [handle(), handle()],
        (open(), mode(), special_file(), set_attr()),
        prop::sample::select(vec![SocketType::Stream, SocketType::Datagram, SocketType::SeqPacket]),
        prop::collection::vec(1..=u8::MAX, 1..=4095),
        any::<u64>(),
        prop::collection::vec(handle(), 0..=MAX_CLUNKS),
    )
        .prop_map(|(names, handles, (open, mode, kind, changes), socket, bytes, number, clunks)| {
            Pieces { names, handles, open, mode, kind, socket, changes, bytes, number, clunks }
        })
}

/// One request of each kind.
fn requests(pieces: &Pieces) -> Vec<Request<'_>> {
    let names: Vec<_> = pieces.names.iter().map(|name| Name::new(name).expect("filtered")).collect();
    let [name, new] = [names[0], names[1]];
    let attribute = XattrName::new(name.as_bytes()).expect("a name is an attribute's name");
    let [dir, file] = pieces.handles;
    let (access, flags) = pieces.open;
    let (mode, kind) = (pieces.mode, pieces.socket);
    let rename_flags =
        [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE][name.as_bytes().len() % 3];
    let xattr_flags =
        [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][name.as_bytes().len() % 3];
    vec![
        Request::Attach { tree: mode.uid },
        Request::Walk { from: dir, names: names.clone(), open: Some(pieces.open) },
        Request::Walk { from: dir, names: vec![], open: None },
        Request::Open { file, access, flags },
        Request::Create { dir, name, access, flags, mode },
        Request::Mkdir { dir, name, mode },
        Request::Symlink { dir, name, target: &pieces.bytes, uid: mode.uid, gid: mode.gid },
        Request::Link { file, dir, name },
        Request::Mknod { dir, name, kind: pieces.kind, mode },
        Request::Unlink { dir, name },
        Request::Rmdir { dir, name },
        Request::Rename { from: dir, old: name, to: file, new, flags: rename_flags },
        Request::SetAttr { file, changes: pieces.changes },
        Request::ReadLink { file },
        Request::StatFs { file },
        Request::GetAttr { file },
        Request::GetXattr { file, name: attribute },
        Request::SetXattr { file, name: attribute, value: &pieces.bytes, flags: xattr_flags },
        Request::ListXattr { file },
        Request::RemoveXattr { file, name: attribute },
        Request::ReadDir { dir, cookie: pieces.number, flags: ReadDirFlags::ATTRIBUTES },
        Request::Connect { socket: file, kind },
        Request::Bind { dir, name, kind, mode },
        Request::NewChannel,
        Request::Clunk,
        Request::Watch { dir },
        Request::Unwatch { tree: mode.gid },
        Request::StatDescriptor { file },
        Request::Follow {
            from: file,
            names: names.iter().copied().zip([None, Some(dir)].into_iter().cycle()).collect(),
            open: Some((access, flags)),
            ahead: names.into_iter().zip([Some(file), None].into_iter().cycle()).take(MAX_AHEAD).collect(),
        },
    ]
}

fn stop() -> impl Strategy<Value = WalkStop> {
    prop_oneof![
        Just(WalkStop::Complete),
        prop::collection::vec(any::<u8>(), 0..=4095).prop_map(WalkStop::Symlink),
        (1..4096i32).prop_map(|number| WalkStop::Failed(abi::errno::Errno::from_raw(number))),
    ]
}

fn file_type() -> impl Strategy<Value = FileType> {
    (0..16u8).prop_map(FileType::from_dirent_type)
}

fn entry() -> impl Strategy<Value = DirEntry> {
    (name_bytes(), any::<u64>(), file_type(), any::<u64>(), prop::option::of(attr()))
        .prop_map(|(name, ino, kind, cookie, attr)| DirEntry { name, ino, kind, cookie, attr })
}

fn reply() -> impl Strategy<Value = Reply> {
    let step = || (handle(), attr()).prop_map(|(handle, attr)| WalkStep { handle, attr });
    let follow_step =
        || (prop::option::of(handle()), attr()).prop_map(|(handle, attr)| FollowStep { handle, attr });
    let outcome = prop_oneof![
        Just(OpenOutcome::None),
        Just(OpenOutcome::Opened),
        (1..4096i32).prop_map(|number| OpenOutcome::Failed(abi::errno::Errno::from_raw(number))),
    ];
    prop_oneof![
        (1..4096i32).prop_map(|number| Reply::Failed(abi::errno::Errno::from_raw(number))),
        Just(Reply::Done),
        (handle(), attr()).prop_map(|(handle, attr)| Reply::File { handle, attr }),
        (handle(), attr(), any::<u8>()).prop_map(|(handle, attr, flags)| {
            Reply::Attached { handle, attr, flags: TreeFlags::from_bits_truncate(flags) }
        }),
        (prop::collection::vec(step(), 0..=16), stop(), outcome)
            .prop_map(|(steps, stop, open)| Reply::Walked { steps, stop, open }),
        (
            attr(),
            prop::collection::vec(follow_step(), 0..=16),
            stop(),
            prop::collection::vec(prop::option::of(follow_step()), 0..=MAX_AHEAD)
        )
            .prop_map(|(from, steps, stop, ahead)| Reply::Followed {
                from,
                steps,
                stop,
                open: OpenOutcome::Opened,
                ahead
            }),
        attr().prop_map(Reply::Attr),
        (any::<u32>(), attr()).prop_map(|(number, attr)| Reply::Watched { number, attr }),
        any::<[u64; 9]>().prop_map(|[kind, block_size, blocks, blocks_free, a, files, files_free, n, f]| {
            Reply::FileSystem(FileSystemStat {
                kind,
                block_size,
                blocks,
                blocks_free,
                blocks_available: a,
                files,
                files_free,
                name_length: n,
                fragment_size: f,
            })
        }),
        prop::collection::vec(any::<u8>(), 0..=wire::MAX_XATTR).prop_map(Reply::Bytes),
        (prop::collection::vec(entry(), 0..=40), any::<bool>())
            .prop_map(|(entries, end)| Reply::Entries { entries, end }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_request_survives_its_encoding(pieces in pieces()) {
        for request in requests(&pieces) {
            let mut message = Vec::new();
            request.encode(&mut message);
            append_clunks(&mut message, pieces.clunks.iter().copied());
            prop_assert!(message.len() <= MAX_MESSAGE);
            let mut clunks = Vec::new();
            prop_assert_eq!(Request::decode(&message, &mut clunks), Ok(request));
            prop_assert_eq!(&clunks, &pieces.clunks);
        }
    }

    #[test]
    fn a_request_cut_short_or_gone_on_is_refused(pieces in pieces(), cut in any::<prop::sample::Index>()) {
        for request in requests(&pieces) {
            let mut message = Vec::new();
            request.encode(&mut message);
            append_clunks(&mut message, pieces.clunks.iter().copied());
            let cut = cut.index(message.len());
            prop_assert!(Request::decode(&message[..cut], &mut Vec::new()).is_err());
            message.push(0);
            prop_assert!(Request::decode(&message, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn one_damaged_byte_never_panics(pieces in pieces(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        for request in requests(&pieces) {
            let mut message = Vec::new();
            request.encode(&mut message);
            let at = at.index(message.len());
            message[at] = value;
            let mut clunks = Vec::new();
            if let Ok(Request::Walk { names, .. }) = Request::decode(&message, &mut clunks) {
                prop_assert!(names.len() <= 16);
                prop_assert!(names.iter().all(|name| !name.as_bytes().contains(&b'/')));
            }
        }
    }

    #[test]
    fn every_reply_survives_its_encoding(reply in reply()) {
        let mut message = Vec::new();
        reply.encode(&mut message);
        prop_assert!(message.len() <= MAX_MESSAGE);
        prop_assert_eq!(Reply::decode(&message), Ok(reply));
    }

    #[test]
    fn arbitrary_bytes_never_panic(tag in 0..32u16, mut bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Reply::decode(&bytes);
        let _ = Request::decode(&bytes, &mut Vec::new());
        if let Some(field) = bytes.get_mut(..2) {
            field.copy_from_slice(&tag.to_le_bytes());
        }
        let _ = Request::decode(&bytes, &mut Vec::new());
        if let Some(field) = bytes.get_mut(..3) {
            field.copy_from_slice(&[0, 0, (tag % 8) as u8]);
        }
        let _ = Reply::decode(&bytes);
    }
}

#[test]
fn an_encoded_attribute_keeps_its_stated_bound() {
    let mut message = Vec::new();
    Reply::Attr(Attr { btime: Some(Timestamp::default()), ..Attr::default() }).encode(&mut message);
    assert!(message.len() - 3 <= Attr::MAX_ENCODED, "{}", message.len());
}

#[test]
fn names_that_could_leave_a_directory_are_refused() {
    for name in [&b""[..], b".", b"..", b"/", b"a/b", b"../a", b"a\0", &[b'x'; 256]] {
        assert!(Name::new(name).is_err(), "{name:?}");
    }
    for name in [&b"..."[..], b".a", b"..a", b"\xff", &[b'x'; 255]] {
        assert!(Name::new(name).is_ok(), "{name:?}");
    }
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    let name = Name::new(b"a").expect("a name");
    let both = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    let mut message = Vec::new();
    Request::Rename { from: HandleId(1), old: name, to: HandleId(1), new: name, flags: both }
        .encode(&mut message);
    assert!(Request::decode(&message, &mut Vec::new()).is_err());
}
