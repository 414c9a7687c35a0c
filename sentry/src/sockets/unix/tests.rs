//! What streams, datagrams and descriptors under way must do, without tasks.

use std::sync::Arc;

use abi::errno::{
    EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, EMSGSIZE, ENOTCONN, EPERM, EPIPE, SysResult,
};
use abi::sockets::{MsgFlags, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, Ucred};

use super::message::OVERHEAD;
use super::{DATAGRAM_BACKLOG, Peer, Table, UnixSocket};
use crate::sockets::options::BUFFER_DEFAULT;
use crate::sockets::{Ancillary, Outgoing, ReceiveFlags, Received, Shutdown, Socket, SocketOps};
use crate::task::Credentials;
use crate::vfs::FileDescription;
use crate::wait::PollEvents;

fn nobody() -> Peer {
    Peer { credentials: Ucred { pid: 7, uid: 1, gid: 2 }, groups: vec![3] }
}

fn pair(kind: u32) -> [Arc<UnixSocket>; 2] {
    UnixSocket::pair(&Arc::default(), kind, &nobody())
}

fn send_with(socket: &UnixSocket, bytes: &[u8], mut ancillary: Ancillary) -> SysResult<usize> {
    socket.send(None, &mut Outgoing { bytes, length: bytes.len(), to: None, ancillary: &mut ancillary })
}

fn send(socket: &UnixSocket, bytes: &[u8]) -> SysResult<usize> {
    send_with(socket, bytes, Ancillary::default())
}

fn receive_with(socket: &UnixSocket, room: usize, flags: ReceiveFlags) -> (SysResult<Vec<u8>>, Received) {
    let mut buffer = vec![0; room];
    let mut received = Received::default();
    let result = socket.receive(&mut buffer, flags, &mut received);
    (result.map(|count| buffer[..count].to_vec()), received)
}

fn receive(socket: &UnixSocket, room: usize) -> SysResult<Vec<u8>> {
    receive_with(socket, room, ReceiveFlags::default()).0
}

fn file_of(socket: &Arc<UnixSocket>) -> Arc<FileDescription> {
    Socket::open(Arc::clone(socket) as Arc<dyn SocketOps>, 0, &Credentials::new(0, 0))
}

fn with_file(file: &Arc<FileDescription>) -> Ancillary {
    Ancillary { rights: vec![Arc::clone(file)], credentials: None }
}

fn named(table: &Arc<Table>, kind: u32, name: &[u8]) -> Arc<UnixSocket> {
    let socket = UnixSocket::new(table, kind);
    let bound = table.claim(name, &socket).unwrap();
    socket.state.lock().name = Some(bound);
    socket
}

#[test]
fn a_stream_joins_what_was_sent_apart() {
    let [a, b] = pair(SOCK_STREAM);
    assert_eq!(receive(&b, 8), Err(EAGAIN));
    assert_eq!((send(&a, b"ab"), send(&a, b"cd")), (Ok(2), Ok(2)));
    assert_eq!(receive(&b, 3), Ok(b"abc".to_vec()));
    assert_eq!(receive(&b, 3), Ok(b"d".to_vec()));
}

#[test]
fn messages_stay_apart_and_tell_when_they_are_cut() {
    for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
        let [a, b] = pair(kind);
        assert_eq!((send(&a, b"abc"), send(&a, b""), send(&a, b"z")), (Ok(3), Ok(0), Ok(1)));
        let (bytes, received) = receive_with(&b, 2, ReceiveFlags { peek: true, ..Default::default() });
        assert_eq!((bytes, received.length), (Ok(b"ab".to_vec()), 3));
        let (bytes, received) = receive_with(&b, 2, ReceiveFlags::default());
        assert_eq!((bytes, received.flags), (Ok(b"ab".to_vec()), MsgFlags::MSG_TRUNC));
        assert_eq!((receive(&b, 9), receive(&b, 9)), (Ok(Vec::new()), Ok(b"z".to_vec())));
        assert_eq!(receive(&b, 9), Err(EAGAIN));
        assert_eq!(send(&a, &vec![0; BUFFER_DEFAULT]), Err(EMSGSIZE));
    }
}

#[test]
fn a_full_stream_takes_no_more_until_it_is_read() {
    let [a, b] = pair(SOCK_STREAM);
    let mut total = 0;
    while let Ok(count) = send(&a, &[1; 5000]) {
        total += count;
        assert!(total <= BUFFER_DEFAULT);
    }
    assert!(total > BUFFER_DEFAULT / 2);
    assert!(!a.poll().intersects(PollEvents::WRITABLE));
    assert_eq!(receive(&b, usize::from(u16::MAX) * 8).map(|bytes| bytes.len()), Ok(total));
    assert!(a.poll().contains(PollEvents::WRITABLE));
    assert_eq!(a.sender.used(), 0);
}

#[test]
fn small_messages_cannot_fill_memory() {
    let [a, _b] = pair(SOCK_STREAM);
    let count = std::iter::repeat_with(|| send(&a, b"x")).take_while(Result::is_ok).count();
    assert!(count <= BUFFER_DEFAULT / OVERHEAD + 1, "{count}");
}

#[test]
fn shutting_one_direction_leaves_the_other() {
    let [a, b] = pair(SOCK_STREAM);
    assert_eq!(send(&a, b"x"), Ok(1));
    a.shut(Shutdown::Sending).unwrap();
    assert_eq!(send(&a, b"y"), Err(EPIPE));
    assert_eq!((receive(&b, 1), receive(&b, 1)), (Ok(b"x".to_vec()), Ok(Vec::new())));
    assert_eq!((send(&b, b"z"), receive(&a, 1)), (Ok(1), Ok(b"z".to_vec())));
    let events = b.poll();
    assert!(events.contains(PollEvents::RDHUP | PollEvents::IN) && !events.contains(PollEvents::HUP));
    b.shut(Shutdown::Sending).unwrap();
    assert!(a.poll().contains(PollEvents::HUP));
}

#[test]
fn what_was_never_read_is_a_reset_for_who_sent_it() {
    let [a, b] = pair(SOCK_STREAM);
    assert_eq!((send(&a, b"x"), send(&b, b"y")), (Ok(1), Ok(1)));
    b.end();
    assert_eq!(receive(&a, 1), Ok(b"y".to_vec()));
    let enough = ReceiveFlags { satisfied: true, ..Default::default() };
    assert_eq!(receive_with(&a, 1, enough).0, Err(EAGAIN));
    assert_eq!(receive(&a, 1), Err(ECONNRESET));
    assert_eq!((receive(&a, 1), send(&a, b"z")), (Ok(Vec::new()), Err(EPIPE)));
}

#[test]
fn connections_wait_in_a_bounded_backlog() {
    let table = Arc::default();
    let server = named(&table, SOCK_STREAM, b"server");
    let clients: Vec<_> = (0..3).map(|_| UnixSocket::new(&table, SOCK_STREAM)).collect();
    assert_eq!(clients[0].connect_stream(&server, nobody()), Err(ECONNREFUSED));
    assert_eq!(clients[0].accept_one().map(drop), Err(EINVAL));
    server.listen_as(nobody(), 1).unwrap();
    assert_eq!(clients[0].connect_stream(&server, nobody()), Ok(()));
    assert_eq!(clients[0].connect_stream(&server, nobody()), Err(EISCONN));
    assert_eq!(clients[1].connect_stream(&server, nobody()), Ok(()));
    assert_eq!(clients[2].connect_stream(&server, nobody()), Err(EAGAIN));
    let connection = server.accept_one().unwrap();
    assert_eq!(clients[2].connect_stream(&server, nobody()), Ok(()));
    assert_eq!((send(&connection, b"hi"), receive(&clients[0], 2)), (Ok(2), Ok(b"hi".to_vec())));
    server.end();
    assert_eq!(receive(&clients[1], 1), Err(ECONNRESET));
    assert_eq!(table.find(b"server", SOCK_STREAM).map(drop), Err(ECONNREFUSED));
}

#[test]
fn an_accepted_socket_does_not_own_its_listeners_name() {
    let table = Arc::default();
    let server = named(&table, SOCK_STREAM, b"server");
    server.listen_as(nobody(), 1).unwrap();
    let client = UnixSocket::new(&table, SOCK_STREAM);
    client.connect_stream(&server, nobody()).unwrap();
    let connection = server.accept_one().unwrap();
    assert_eq!(connection.name(), server.name());
    connection.end();
    assert!(table.find(b"server", SOCK_STREAM).is_ok());
    assert!(table.find(b"server", SOCK_DGRAM).is_err());
}

#[test]
fn unconnected_datagrams_are_bounded_at_the_receiver() {
    let table = Arc::default();
    let server = named(&table, SOCK_DGRAM, b"server");
    let client = UnixSocket::new(&table, SOCK_DGRAM);
    assert_eq!(send(&client, b"x"), Err(ENOTCONN));
    client.connect_datagrams(&server).unwrap();
    for _ in 0..=DATAGRAM_BACKLOG {
        assert_eq!(send(&client, b"x"), Ok(1));
    }
    assert_eq!(send(&client, b"x"), Err(EAGAIN));
    assert!(!client.poll().intersects(PollEvents::OUT));
    assert_eq!(receive(&server, 1), Ok(b"x".to_vec()));
    assert_eq!(send(&client, b"x"), Ok(1));
    server.end();
    assert_eq!(send(&client, b"x"), Err(ECONNREFUSED));
    assert_eq!(send(&client, b"x"), Err(ENOTCONN));
}

#[test]
fn a_connected_datagram_socket_hears_only_its_peer() {
    let table = Arc::default();
    let server = named(&table, SOCK_DGRAM, b"server");
    let [friend, stranger] = [(), ()].map(|()| UnixSocket::new(&table, SOCK_DGRAM));
    stranger.connect_datagrams(&server).unwrap();
    server.connect_datagrams(&friend).unwrap();
    assert_eq!(send(&stranger, b"x"), Err(EPERM));
    assert_eq!(UnixSocket::new(&table, SOCK_DGRAM).connect_datagrams(&server), Err(EPERM));
}

#[test]
fn descriptors_end_a_receive_and_are_counted() {
    let [a, b] = pair(SOCK_STREAM);
    let other = file_of(&pair(SOCK_STREAM)[0]);
    assert_eq!(send(&a, b"1"), Ok(1));
    assert_eq!(send_with(&a, b"2", with_file(&other)), Ok(1));
    assert_eq!(send(&a, b"3"), Ok(1));
    assert_eq!(a.table.flight.lock().total(), 1);
    let (bytes, received) = receive_with(&b, 8, ReceiveFlags::default());
    assert_eq!((bytes, received.rights.len(), received.ended), (Ok(b"12".to_vec()), 1, true));
    assert_eq!((a.table.flight.lock().total(), receive(&b, 8)), (0, Ok(b"3".to_vec())));
}

#[test]
fn sockets_held_only_by_their_own_queues_are_collected() {
    let table = Arc::default();
    let [a, b] = UnixSocket::pair(&table, SOCK_STREAM, &nobody());
    let (file_a, file_b) = (file_of(&a), file_of(&b));
    // Each lies in the other's queue.
    assert_eq!(send_with(&a, b"x", with_file(&file_a)), Ok(1));
    assert_eq!(send_with(&b, b"x", with_file(&file_b)), Ok(1));
    table.collect();
    assert_eq!(table.flight.lock().total(), 2, "descriptors outside still lead to them");
    drop((file_a, file_b));
    assert!(!a.is_dead() && !b.is_dead());
    table.collect();
    assert_eq!(table.flight.lock().total(), 0);
    assert!(a.is_dead() && b.is_dead());
}

#[test]
fn a_socket_in_the_queue_of_a_live_one_is_not_collected() {
    let table = Arc::default();
    let [a, b] = UnixSocket::pair(&table, SOCK_STREAM, &nobody());
    let (_file_a, _file_b) = (file_of(&a), file_of(&b));
    let [inner, partner] = UnixSocket::pair(&table, SOCK_STREAM, &nobody());
    let (inner_file, partner_file) = (file_of(&inner), file_of(&partner));
    // `partner` lies in the queue of `inner`, which lies in that of `b`.
    assert_eq!(send_with(&partner, b"x", with_file(&partner_file)), Ok(1));
    assert_eq!(send_with(&a, b"x", with_file(&inner_file)), Ok(1));
    drop((inner_file, partner_file));
    table.collect();
    assert_eq!(table.flight.lock().total(), 2);
    let (_, received) = receive_with(&b, 1, ReceiveFlags::default());
    assert_eq!(received.rights.len(), 1);
    assert!(!inner.is_dead());
}

#[test]
fn nested_queues_end_without_deep_recursion() {
    let table = Arc::default();
    let [outer, other] = UnixSocket::pair(&table, SOCK_STREAM, &nobody());
    let outer_files = (file_of(&outer), file_of(&other));
    let mut last = Arc::clone(&outer);
    let mut kept = Vec::new();
    for _ in 0..5_000 {
        let [inner, partner] = UnixSocket::pair(&table, SOCK_STREAM, &nobody());
        let file = file_of(&partner);
        let mut message = with_file(&file);
        let rights = table.flight.lock().enter(&mut message.rights, None).unwrap();
        let charge = inner.sender.charge(1);
        let message =
            super::Message { bytes: vec![1], consumed: 0, rights, credentials: None, from: None, charge };
        let mut state = last.state.lock();
        state.inbox.push_back(message);
        state.with_rights += 1;
        drop(state);
        last = partner;
        kept.push(inner);
    }
    drop(outer_files);
    assert_eq!(table.flight.lock().total(), 0);
    assert!(last.is_dead());
}
