/* Unix sockets: stream, datagram, seqpacket, names, descriptor and credential passing. */
#include "check.h"
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un address(const char *path, socklen_t *len) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (path[0] == '@') { /* abstract */
        memcpy(a.sun_path + 1, path + 1, n - 1);
        *len = offsetof(struct sockaddr_un, sun_path) + n;
    } else {
        strcpy(a.sun_path, path);
        *len = offsetof(struct sockaddr_un, sun_path) + n + 1;
    }
    return a;
}
static int bound(int type, const char *path) {
    socklen_t len;
    struct sockaddr_un a = address(path, &len);
    int fd = socket(AF_UNIX, type, 0);
    CHECK(fd >= 0 && bind(fd, (void *)&a, len) == 0);
    return fd;
}
static int connect_to(int fd, const char *path) {
    socklen_t len;
    struct sockaddr_un a = address(path, &len);
    return connect(fd, (void *)&a, len);
}

TEST(a_stream_server_and_client) {
    int server = bound(SOCK_STREAM, "sock");
    CHECK(listen(server, 5) == 0);
    struct stat st;
    CHECK(stat("sock", &st) == 0 && S_ISSOCK(st.st_mode));
    pid_t pid = CHILD({
        int c = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK(connect_to(c, "sock") == 0);
        char buf[6] = {0};
        CHECK(write(c, "hello", 5) == 5 && read(c, buf, 5) == 5);
        CHECK_STR(buf, "HELLO");
        CHECK_EQ(read(c, buf, 1), 0);
    });
    struct sockaddr_un peer;
    socklen_t len = sizeof peer;
    int s = accept4(server, (void *)&peer, &len, SOCK_CLOEXEC);
    CHECK(s >= 0 && len == 2 && peer.sun_family == AF_UNIX);
    char buf[6] = {0};
    CHECK(read(s, buf, 5) == 5);
    CHECK_STR(buf, "hello");
    CHECK(write(s, "HELLO", 5) == 5 && close(s) == 0);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(fcntl(s, F_GETFD), -1);
}

TEST(names_and_errors) {
    int server = bound(SOCK_STREAM, "sock"), c = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t len;
    struct sockaddr_un a = address("sock", &len), got;
    CHECK_ERR(bind(c, (void *)&a, len), EADDRINUSE);
    CHECK_ERR(connect_to(c, "sock"), ECONNREFUSED); /* not listening */
    CHECK_ERR(connect_to(c, "missing"), ENOENT);
    write_file("plain", "");
    CHECK_ERR(connect_to(c, "plain"), ECONNREFUSED);
    CHECK(listen(server, 1) == 0);
    struct sockaddr_un second = address("second", &len);
    CHECK_ERR(bind(server, (void *)&second, len), EINVAL);
    len = offsetof(struct sockaddr_un, sun_path) + 5;
    socklen_t n = sizeof got;
    CHECK(getsockname(server, (void *)&got, &n) == 0 && n == len);
    CHECK_STR(got.sun_path, "sock");
    CHECK(connect_to(c, "sock") == 0);
    CHECK_ERR(connect_to(c, "sock"), EISCONN);
    n = sizeof got;
    CHECK(getpeername(c, (void *)&got, &n) == 0);
    CHECK_STR(got.sun_path, "sock");
    CHECK_ERR(getpeername(server, (void *)&got, &n), ENOTCONN);
    int d = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK_ERR(connect_to(d, "sock"), EPROTOTYPE);
    CHECK_ERR(listen(d, 1), EOPNOTSUPP);
    CHECK_ERR(accept(c, NULL, NULL), EINVAL);
    CHECK_ERR(socket(AF_UNIX, 99, 0), EINVAL);
    CHECK_ERR(socket(AF_UNIX, SOCK_STREAM, 5), EPROTONOSUPPORT);
    CHECK_ERR(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK_ERR(getsockname(0, (void *)&got, &n), ENOTSOCK);
}

TEST(abstract_names) {
    int server = bound(SOCK_STREAM, "@an-abstract-name"), c = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(listen(server, 1) == 0);
    CHECK_ERR(connect_to(c, "@an-abstract-nam"), ECONNREFUSED);
    CHECK(connect_to(c, "@an-abstract-name") == 0);
    struct sockaddr_un got;
    socklen_t n = sizeof got;
    CHECK(getpeername(c, (void *)&got, &n) == 0 && n == 2 + 17 && got.sun_path[0] == 0);
    CHECK(!memcmp(got.sun_path + 1, "an-abstract-name", 16));
    int auto_bound = socket(AF_UNIX, SOCK_DGRAM, 0);
    sa_family_t family = AF_UNIX;
    CHECK(bind(auto_bound, (void *)&family, 2) == 0);
    n = sizeof got;
    CHECK(getsockname(auto_bound, (void *)&got, &n) == 0 && n == 8 && got.sun_path[0] == 0);
    close(server);
    int again = bound(SOCK_STREAM, "@an-abstract-name");
    CHECK(again >= 0);
}

TEST(socketpair_of_each_type) {
    int s[2];
    char buf[100];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(write(s[0], "ab", 2) == 2 && write(s[0], "cd", 2) == 2);
    CHECK_EQ(read(s[1], buf, 100), 4);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) == 0);
    CHECK(write(s[0], "ab", 2) == 2 && write(s[0], "cde", 3) == 3);
    CHECK_EQ(read(s[1], buf, 100), 2);
    CHECK_EQ(read(s[1], buf, 1), 1); /* the rest is cut off */
    close(s[0]);
    CHECK_EQ(read(s[1], buf, 100), 0);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s) == 0);
    CHECK(write(s[0], "ab", 2) == 2 && write(s[0], "", 0) == 0);
    CHECK_EQ(read(s[1], buf, 100), 2);
    CHECK_EQ(read(s[1], buf, 100), 0);
    CHECK_ERR(read(s[1], buf, 100), EAGAIN);
    close(s[0]);
    CHECK_ERR(write(s[1], "x", 1), ECONNREFUSED);
}

TEST(datagrams_have_senders) {
    int server = bound(SOCK_DGRAM, "server"), client = bound(SOCK_DGRAM, "client");
    socklen_t len;
    struct sockaddr_un to = address("server", &len), from;
    CHECK_EQ(sendto(client, "ping", 4, 0, (void *)&to, len), 4);
    char buf[10];
    len = sizeof from;
    CHECK_EQ(recvfrom(server, buf, 10, 0, (void *)&from, &len), 4);
    CHECK_STR(from.sun_path, "client");
    CHECK_EQ(sendto(server, "pong!", 5, 0, (void *)&from, len), 5);
    CHECK_EQ(recv(client, buf, 2, MSG_TRUNC), 5);
    CHECK_ERR(send(client, "x", 1, 0), ENOTCONN);
    CHECK(connect_to(client, "server") == 0 && send(client, "x", 1, 0) == 1);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    CHECK(connect(client, &none, sizeof none) == 0);
    CHECK_ERR(send(client, "x", 1, 0), ENOTCONN);
    CHECK_EQ(recv(server, buf, 10, MSG_PEEK), 1);
    CHECK_EQ(recv(server, buf, 10, 0), 1);
    CHECK_ERR(recv(server, buf, 10, MSG_DONTWAIT), EAGAIN);
}

static ssize_t send_fds(int s, const int *fds, int n) {
    char data = 'd';
    char control[CMSG_SPACE(sizeof(int) * 10)] __attribute__((aligned(8))) = {0};
    struct iovec iov = {&data, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n)};
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    return sendmsg(s, &m, 0);
}
static int recv_fds(int s, int *fds, int room, int flags, int *out_flags) {
    char data;
    char control[CMSG_SPACE(sizeof(int) * 10)] __attribute__((aligned(8)));
    struct iovec iov = {&data, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = room ? CMSG_LEN(sizeof(int) * room) : 0};
    CHECK_EQ(recvmsg(s, &m, flags), 1);
    if (out_flags) *out_flags = m.msg_flags;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c) return 0;
    CHECK(c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS);
    int n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), n * sizeof(int));
    return n;
}

TEST(descriptors_travel) {
    int s[2], p[2], got[10];
    char c = 0;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && pipe(p) == 0);
    pid_t pid = CHILD({
        close(p[0]), close(p[1]);
        CHECK_EQ(recv_fds(s[1], got, 10, MSG_CMSG_CLOEXEC, NULL), 1);
        CHECK_EQ(fcntl(got[0], F_GETFD), FD_CLOEXEC);
        CHECK(write(got[0], "!", 1) == 1);
    });
    CHECK_EQ(send_fds(s[0], &p[1], 1), 1);
    close(p[1]);
    CHECK(read(p[0], &c, 1) == 1 && c == '!');
    CHECK_EXIT(pid, 0);
    CHECK_EQ(read(p[0], &c, 1), 0); /* the last writer is gone */
    int three[3] = {0, 1, 2}, flags;
    CHECK_EQ(send_fds(s[0], three, 3), 1);
    CHECK_EQ(recv_fds(s[1], got, 1, 0, &flags), 1);
    CHECK(flags & MSG_CTRUNC);
    CHECK_EQ(send_fds(s[0], three, 3), 1);
    CHECK_EQ(read(s[1], &c, 1), 1); /* read drops what came along */
    CHECK_ERR(send_fds(s[0], (int[]){999}, 1), EBADF);
    struct stat a, b;
    int null = open("/dev/null", O_RDONLY);
    CHECK(send_fds(s[0], &null, 1) == 1 && recv_fds(s[1], got, 10, 0, NULL) == 1);
    CHECK(fstat(null, &a) == 0 && fstat(got[0], &b) == 0 && a.st_ino == b.st_ino && a.st_rdev == b.st_rdev);
}

TEST(a_descriptor_in_flight_keeps_its_file_open) {
    int s[2], p[2];
    char c;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && pipe2(p, O_NONBLOCK) == 0);
    CHECK_EQ(send_fds(s[0], &p[1], 1), 1);
    close(p[1]);
    CHECK_ERR(read(p[0], &c, 1), EAGAIN);
    close(s[0]), close(s[1]);
    CHECK_EQ(read(p[0], &c, 1), 0);
}

TEST(credentials_travel_and_are_checked) {
    int s[2], on = 1;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
    CHECK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    pid_t pid = CHILD(CHECK(write(s[0], "x", 1) == 1));
    char data, control[200];
    struct iovec iov = {&data, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK_EQ(recvmsg(s[1], &m, 0), 1);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    CHECK(c && c->cmsg_type == SCM_CREDENTIALS);
    struct ucred cred;
    memcpy(&cred, CMSG_DATA(c), sizeof cred);
    CHECK(cred.pid == pid && cred.uid == getuid() && cred.gid == getgid());
    CHECK_EXIT(pid, 0);
    socklen_t len = sizeof cred;
    int t[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, t) == 0);
    CHECK(getsockopt(t[0], SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid == getpid());
    pid = CHILD({
        CHECK(setresuid(777, 777, 777) == 0);
        char out[CMSG_SPACE(sizeof cred)] __attribute__((aligned(8))) = {0};
        struct msghdr f = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = out, .msg_controllen = sizeof out};
        struct cmsghdr *h = CMSG_FIRSTHDR(&f);
        *h = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS, .cmsg_len = CMSG_LEN(sizeof cred)};
        struct ucred forged = {getpid(), 0, 0};
        memcpy(CMSG_DATA(h), &forged, sizeof forged);
        CHECK_ERR(sendmsg(s[0], &f, 0), EPERM);
    });
    CHECK_EXIT(pid, 0);
}

TEST(shutdown_and_half_closed) {
    int s[2];
    char c;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(write(s[0], "x", 1) == 1 && shutdown(s[0], SHUT_WR) == 0);
    CHECK(read(s[1], &c, 1) == 1 && read(s[1], &c, 1) == 0);
    CHECK(write(s[1], "y", 1) == 1 && read(s[0], &c, 1) == 1);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERR(write(s[0], "x", 1), EPIPE);
    signal(SIGPIPE, SIG_DFL);
    CHECK_ERR(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_KILLED(CHILD(write(s[0], "x", 1)), SIGPIPE);
    CHECK_ERR(shutdown(s[0], 9), EINVAL);
}

TEST(unread_data_at_close_is_a_reset) {
    int s[2];
    char c;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(write(s[0], "x", 1) == 1 && close(s[1]) == 0);
    CHECK_ERR(read(s[0], &c, 1), ECONNRESET);
    CHECK_EQ(read(s[0], &c, 1), 0);
}

TEST(blocking_and_nonblocking_sends_and_big_transfers) {
    int s[2];
    enum { SIZE = 3 << 20 };
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    pid_t pid = CHILD({
        close(s[0]);
        char *data = malloc(SIZE);
        for (int i = 0; i < SIZE; i++) data[i] = (char)(i ^ i >> 11);
        CHECK_EQ(write(s[1], data, SIZE), SIZE);
    });
    close(s[1]);
    char *back = malloc(SIZE);
    CHECK_EQ(recv(s[0], back, SIZE, MSG_WAITALL), SIZE);
    for (int i = 0; i < SIZE; i++) CHECK(back[i] == (char)(i ^ i >> 11));
    CHECK_EXIT(pid, 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0);
    long total = 0;
    ssize_t n;
    while ((n = write(s[0], back, 10000)) > 0) total += n;
    CHECK(errno == EAGAIN && total > 50000 && total < 50 << 20);
    int waiting;
    CHECK(ioctl(s[1], FIONREAD, &waiting) == 0 && waiting > 0);
}

TEST(socket_options) {
    int s[2], v;
    socklen_t len = sizeof v;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) == 0);
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &v, &len) == 0 && v == SOCK_SEQPACKET && len == 4);
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_DOMAIN, &v, &len) == 0 && v == AF_UNIX);
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_ERROR, &v, &len) == 0 && v == 0);
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_ACCEPTCONN, &v, &len) == 0 && v == 0);
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, &len) == 0 && v > 1000);
    struct timeval tv = {0, 20000};
    CHECK(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0);
    long long start = now_ns(CLOCK_MONOTONIC);
    char c;
    CHECK_ERR(read(s[0], &c, 1), EAGAIN);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 19000000);
    CHECK_ERR(getsockopt(s[0], SOL_SOCKET, 9999, &v, &len), ENOPROTOOPT);
    CHECK_ERR(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &v, 4), EINVAL);
}

TEST(sendmmsg_and_recvmmsg_move_several) {
    int s[2];
    char a[10], b[10];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
    struct iovec out[2] = {{"one", 3}, {"three", 5}}, in[2] = {{a, 10}, {b, 10}};
    struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = &out[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &out[1], .msg_iovlen = 1}}};
    CHECK_EQ(sendmmsg(s[0], m, 2, 0), 2);
    struct mmsghdr r[2] = {{.msg_hdr = {.msg_iov = &in[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &in[1], .msg_iovlen = 1}}};
    CHECK_EQ(recvmmsg(s[1], r, 2, MSG_DONTWAIT, NULL), 2);
    CHECK(r[0].msg_len == 3 && r[1].msg_len == 5 && !memcmp(b, "three", 5));
}

TEST(the_backlog_limits_and_accept_blocks) {
    int server = bound(SOCK_STREAM, "sock");
    CHECK(listen(server, 1) == 0);
    int n = 0, last = -1;
    for (; n < 20; n++) {
        last = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect_to(last, "sock") < 0) break;
    }
    CHECK(errno == EAGAIN && n == 2);
    for (int i = 0; i < n; i++) CHECK(accept(server, NULL, NULL) >= 0);
    CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    CHECK_ERR(accept(server, NULL, NULL), EAGAIN);
    struct pollfd pf = {server, POLLIN, 0};
    CHECK_EQ(poll(&pf, 1, 0), 0);
    CHECK(connect_to(last, "sock") == 0 && poll(&pf, 1, -1) == 1);
}
