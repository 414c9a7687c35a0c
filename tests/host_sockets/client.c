/*
 * Talks to the host's Unix sockets in /sockets (`tests/host_sockets.rs` has the other ends): `stream` and `sequence` send back what
 * they get, `datagrams` writes what it gets into the file `got`, `rights` sends a descriptor along, `closing` hangs up
 * at once, `nobody` is a socket on which nobody listens any more.
 */
#include "../guest/check.h"
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un address_of(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/sockets/%s", name);
    return address;
}
static int connect_to(const char *name, int fd) {
    struct sockaddr_un address = address_of(name);
    return connect(fd, (void *)&address, sizeof address);
}
static int connected(const char *name, int type) {
    int fd = socket(AF_UNIX, type, 0);
    CHECK(fd >= 0);
    CHECK(connect_to(name, fd) == 0);
    return fd;
}
static void wait_readable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK(poll(&p, 1, 10000) == 1 && p.revents & POLLIN);
}

TEST(a_stream_carries_bytes_both_ways) {
    int fd = connected("stream", SOCK_STREAM);
    char text[16] = {0};
    CHECK(write(fd, "one", 3) == 3);
    CHECK(read(fd, text, sizeof text) == 3 && !strcmp(text, "one"));
    CHECK(send(fd, "three", 5, MSG_NOSIGNAL) == 5);
    wait_readable(fd);
    int count = 0;
    CHECK(ioctl(fd, FIONREAD, &count) == 0);
    CHECK_EQ(count, 5);
    CHECK(recv(fd, text, 2, MSG_PEEK) == 2);
    CHECK(recv(fd, text, 5, MSG_WAITALL) == 5 && !memcmp(text, "three", 5));
    CHECK_ERR(recv(fd, text, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(connect_to("stream", fd), EISCONN);
    CHECK_ERR(listen(fd, 1), EINVAL);
    /* The other end ends when it has nothing more to read. */
    CHECK(shutdown(fd, SHUT_WR) == 0);
    CHECK_ERR(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK(read(fd, text, 1) == 0);
}

TEST(a_peer_is_named_as_it_was_called) {
    int fd = connected("stream", SOCK_STREAM);
    struct sockaddr_un peer;
    socklen_t length = sizeof peer;
    CHECK(getpeername(fd, (void *)&peer, &length) == 0);
    CHECK_STR(peer.sun_path, "/sockets/stream");
}

/* More than any queue holds: the writer has to wait for a reader, who is woken by what comes. */
static void *write_all(void *arg) {
    static char bytes[3 << 20];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7 >> 3);
    CHECK_EQ(write(*(int *)arg, bytes, sizeof bytes), sizeof bytes);
    CHECK(shutdown(*(int *)arg, SHUT_WR) == 0);
    return NULL;
}
TEST(a_long_stream_waits_on_both_sides) {
    int fd = connected("stream", SOCK_STREAM);
    pthread_t writer;
    CHECK(pthread_create(&writer, NULL, write_all, &fd) == 0);
    size_t total = 0;
    static char bytes[40000];
    ssize_t n;
    while ((n = read(fd, bytes, sizeof bytes)) > 0)
        for (ssize_t i = 0; i < n; i++, total++) CHECK(bytes[i] == (char)(total * 7 >> 3));
    CHECK_EQ(n, 0);
    CHECK_EQ(total, 3 << 20);
    CHECK(pthread_join(writer, NULL) == 0);
}

TEST(messages_keep_their_boundaries) {
    int fd = connected("sequence", SOCK_SEQPACKET);
    char text[16];
    CHECK(send(fd, "first", 5, 0) == 5);
    CHECK(send(fd, "second", 6, 0) == 6);
    CHECK(recv(fd, text, sizeof text, 0) == 5);
    struct iovec piece = {text, 3};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    CHECK(recvmsg(fd, &message, 0) == 3 && message.msg_flags & MSG_TRUNC && !memcmp(text, "sec", 3));
}

TEST(datagrams_go_to_a_peer_and_to_an_address) {
    int fd = connected("datagrams", SOCK_DGRAM);
    CHECK(send(fd, "to the peer\n", 12, 0) == 12);
    int other = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un address = address_of("datagrams");
    for (int i = 0; i < 2; i++) CHECK(sendto(other, "to an address\n", 14, 0, (void *)&address, sizeof address) == 14);
    for (int i = 0; i < 1000 && (access("/sockets/got", F_OK) || read_file("/sockets/got") < 40); i++) usleep(10000);
    CHECK_STR(file_text, "to the peer\nto an address\nto an address\n");
    /* No peer any more. */
    CHECK(connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)) == 0);
    CHECK_ERR(send(fd, "x", 1, 0), ENOTCONN);
}

TEST(descriptors_do_not_cross) {
    int fd = connected("rights", SOCK_STREAM);
    char text[64], control[256];
    struct iovec piece = {text, sizeof text};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(fd, &message, 0) == 4 && !memcmp(text, "gift", 4));
    CHECK(!CMSG_FIRSTHDR(&message) && message.msg_flags & MSG_CTRUNC);
    /* And back: the other end says how many came. */
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } own = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    memcpy(CMSG_DATA(&own.header), &(int){1}, sizeof(int));
    struct msghdr back = {.msg_iov = &(struct iovec){"back", 4}, .msg_iovlen = 1, .msg_control = &own, .msg_controllen = sizeof own};
    CHECK(sendmsg(fd, &back, 0) == 4);
    CHECK(read(fd, text, 1) == 1);
    CHECK_EQ(text[0], '0');
}

TEST(a_peer_that_hangs_up_is_seen) {
    int fd = connected("closing", SOCK_STREAM);
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
    while (!(p.revents & POLLHUP)) CHECK(poll(&p, 1, 10000) == 1);
    CHECK(p.revents & POLLRDHUP);
    char byte;
    CHECK(read(fd, &byte, 1) == 0);
    CHECK_ERR(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    int error = -1;
    socklen_t length = sizeof error;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0);
    CHECK_EQ(error, 0);
}

TEST(where_nobody_listens_the_connection_is_refused) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERR(connect_to("nobody", fd), ECONNREFUSED);
    CHECK_ERR(connect_to("sequence", fd), EPROTOTYPE);
    CHECK_ERR(connect_to("nothing", fd), ENOENT);
    CHECK(connect_to("stream", fd) == 0);
}

/* Not with the others: for a sandbox that may not. */
TEST(nothing_of_the_host_is_reached) {
    if (!getenv("REFUSED")) return;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERR(connect_to("stream", fd), ECONNREFUSED);
    int datagrams = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK_ERR(connect_to("datagrams", datagrams), ECONNREFUSED);
}
