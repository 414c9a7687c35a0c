//! The client against gofers of all kinds: slow, refusing, broken. (The real one is tried in the gofer's own tests.)

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use abi::errno;
use wire::{
    Access, Attr, Client, FollowStep, HandleId, Incoming, MAX_MESSAGE, Name, OpenFlags, OpenOutcome, Opened,
    Reply, Request, TreeFlags, WalkStop,
};

/// What a test's gofer does, and what it has seen.
#[derive(Default)]
struct Fake {
    /// Whether `NewChannel` is refused.
    refuses_channels: bool,
    channels: AtomicU32,
    clunked: Mutex<Vec<HandleId>>,
    /// Calls of `StatFs` that wait for `released`.
    waiting: Mutex<u32>,
    changed: Condvar,
    released: Mutex<bool>,
    release: Condvar,
}

impl Fake {
    fn serve(self: &Arc<Self>, socket: OwnedFd) {
        self.channels.fetch_add(1, Ordering::Relaxed);
        let fake = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_MESSAGE];
            while let Incoming::Request(length) = wire::receive_request(socket.as_fd(), &mut buffer) {
                let mut clunks = Vec::new();
                let request =
                    Request::decode(&buffer[..length], &mut clunks).expect("our own client's request");
                fake.clunked.lock().expect("a lock").extend(clunks);
                let (reply, descriptor) = fake.answer(&request);
                let mut message = Vec::new();
                reply.encode(&mut message);
                if wire::send(socket.as_fd(), &message, descriptor.as_ref().map(AsFd::as_fd).as_slice())
                    .is_err()
                {
                    break;
                }
            }
        });
    }

    fn answer(self: &Arc<Self>, request: &Request<'_>) -> (Reply, Option<OwnedFd>) {
        match request {
            Request::Attach { tree } => {
                let handle = HandleId(u64::from(*tree) + 1);
                (Reply::Attached { handle, attr: Attr::default(), flags: TreeFlags::empty() }, None)
            }
            Request::NewChannel if self.refuses_channels => (Reply::Failed(errno::EAGAIN), None),
            Request::NewChannel => {
                let (ours, theirs) = wire::socket_pair().expect("a socket pair");
                self.serve(ours);
                (Reply::Done, Some(theirs))
            }
            Request::StatFs { .. } => {
                *self.waiting.lock().expect("a lock") += 1;
                self.changed.notify_all();
                let released = self.released.lock().expect("a lock");
                drop(self.release.wait_while(released, |released| !*released).expect("a lock"));
                (Reply::Failed(errno::ENOSYS), None)
            }
            Request::GetAttr { .. } => (Reply::Attr(Attr::default()), None),
            // Neither an answer to what was asked, nor without a descriptor.
            Request::ReadLink { .. } => (Reply::Done, Some(wire::socket_pair().expect("a socket pair").0)),
            _ => (Reply::Done, None),
        }
    }

    fn wait_for(&self, calls: u32) {
        let waiting = self.waiting.lock().expect("a lock");
        drop(self.changed.wait_while(waiting, |waiting| *waiting < calls).expect("a lock"));
    }

    fn release_all(&self) {
        *self.released.lock().expect("a lock") = true;
        self.release.notify_all();
    }
}

fn connected(fake: Fake) -> (Arc<Fake>, Client) {
    let (ours, theirs) = wire::socket_pair().expect("a socket pair");
    let fake = Arc::new(fake);
    fake.serve(ours);
    (fake, Client::new(theirs))
}

#[test]
fn blocked_calls_do_not_block_another() {
    let (fake, client) = connected(Fake::default());
    let handle = client.attach(0).expect("the tree").root.handle;
    thread::scope(|scope| {
        let blocked: Vec<_> = (0..7).map(|_| scope.spawn(|| client.stat_fs(&handle).err())).collect();
        fake.wait_for(7);
        client.get_attr(&handle).expect("an answer while seven calls wait");
        // Two more than there are channels: they wait for one, and get it.
        let last: Vec<_> = (0..3).map(|_| scope.spawn(|| client.stat_fs(&handle).err())).collect();
        fake.wait_for(8);
        fake.release_all();
        for call in blocked.into_iter().chain(last) {
            assert_eq!(call.join().expect("no panic"), Some(errno::ENOSYS));
        }
    });
    assert_eq!(fake.channels.load(Ordering::Relaxed), 8);
}

#[test]
fn one_channel_serves_all_threads_when_no_other_is_given() {
    let (fake, client) = connected(Fake { refuses_channels: true, ..Fake::default() });
    let handle = client.attach(0).expect("the tree").root.handle;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!((0..100).all(|_| client.get_attr(&handle).is_ok())));
        }
    });
    assert_eq!(fake.channels.load(Ordering::Relaxed), 1);
}

#[test]
fn dropped_handles_ride_on_later_requests() {
    let (fake, client) = connected(Fake::default());
    let kept = client.attach(1000).expect("the tree").root.handle;
    let dropped: Vec<_> = (0..300).map(|tree| client.attach(tree).expect("the tree").root.handle).collect();
    drop(dropped);
    assert!(fake.clunked.lock().expect("a lock").is_empty(), "a drop makes no call");
    client.get_attr(&kept).expect("attributes");
    assert_eq!(fake.clunked.lock().expect("a lock").len(), wire::MAX_CLUNKS);
    client.flush_clunks().expect("clunks");
    let mut clunked = fake.clunked.lock().expect("a lock").clone();
    clunked.sort();
    assert_eq!(clunked, (1..=300).map(HandleId).collect::<Vec<_>>());
}

#[test]
fn a_reply_to_something_else_fails_that_call_alone() {
    let (_fake, client) = connected(Fake::default());
    let handle = client.attach(0).expect("the tree").root.handle;
    assert_eq!(client.read_link(&handle), Err(errno::EIO));
    client.get_attr(&handle).expect("attributes");
}

#[test]
fn handles_of_another_client_are_refused() {
    let (_fake, client) = connected(Fake::default());
    let (_other_fake, other) = connected(Fake::default());
    let handle = other.attach(0).expect("the tree").root.handle;
    assert_eq!(client.get_attr(&handle).err(), Some(errno::EXDEV));
}

#[test]
fn bytes_that_are_no_reply_end_the_connection() {
    for garbage in [&[0xff; 40][..], &[0, 0, 99], &[0], &[0, 0, 6, 0, 255, 255]] {
        let (ours, theirs) = wire::socket_pair().expect("a socket pair");
        let client = Client::new(theirs);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = vec![0; MAX_MESSAGE];
                wire::receive_request(ours.as_fd(), &mut buffer);
                wire::send(ours.as_fd(), garbage, &[]).expect("sending");
            });
            assert_eq!(client.attach(0).err(), Some(errno::EIO));
        });
        assert_eq!(client.attach(0).err(), Some(errno::EIO), "and stays ended");
    }
}

#[test]
fn threads_that_wait_for_a_channel_wake_when_the_gofer_is_gone() {
    let (ours, theirs) = wire::socket_pair().expect("a socket pair");
    let client = Client::new(theirs);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..5).map(|_| scope.spawn(|| client.attach(0).err())).collect();
        let mut buffer = vec![0; MAX_MESSAGE];
        wire::receive_request(ours.as_fd(), &mut buffer);
        drop(ours);
        for call in calls {
            assert_eq!(call.join().expect("no panic"), Some(errno::EIO));
        }
    });
}

#[test]
fn descriptors_beyond_what_a_reply_claims_are_closed() {
    let step = || Some(FollowStep { handle: Some(HandleId(7)), attr: Attr::default() });
    let reply = Reply::Followed {
        from: Attr::default(),
        steps: vec![step().expect("a step")],
        stop: WalkStop::Complete,
        open: OpenOutcome::Opened,
        ahead: vec![step(), None, step()],
    };
    for sent in 0..=4 {
        let (ours, theirs) = wire::socket_pair().expect("a socket pair");
        let client = Client::new(theirs);
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = vec![0; MAX_MESSAGE];
                let mut message = Vec::new();
                let mut answer = |reply: &Reply, descriptors: &[_]| {
                    wire::receive_request(ours.as_fd(), &mut buffer);
                    reply.encode(&mut message);
                    wire::send(ours.as_fd(), &message, descriptors).expect("sending");
                };
                let (handle, attr, flags) = (HandleId(1), Attr::default(), TreeFlags::empty());
                // Before each: another channel, because the last free one is being used.
                answer(&Reply::Failed(errno::EAGAIN), &[]);
                answer(&Reply::Attached { handle, attr, flags }, &[]);
                answer(&Reply::Failed(errno::EAGAIN), &[]);
                answer(&reply, &vec![writer.as_fd(); sent]);
            });
            let root = client.attach(0).expect("the tree").root.handle;
            let name = Name::new(b"name").expect("a name");
            let open = Some((Access::Read, OpenFlags::empty()));
            let followed = client.follow(&root, &[(name, None)], open, &[(name, None); 3]);
            if sent > 3 {
                assert_eq!(followed.err(), Some(errno::EIO));
                return;
            }
            let followed = followed.expect("an answer");
            // If we may have no more descriptors, what was not asked for goes first.
            assert_eq!(matches!(followed.opened, Opened::Descriptor(_)), sent > 0);
            let ahead: Vec<_> = followed.ahead.iter().map(Option::is_some).collect();
            assert_eq!(ahead, if sent == 3 { [true, false, true] } else { [false; 3] });
        });
        drop(writer);
        // Nobody holds the pipe's other end any more: this ends at once.
        assert_eq!(std::io::Read::read(&mut reader, &mut [0; 1]).expect("the end of the pipe"), 0);
    }
}
