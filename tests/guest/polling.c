/* poll, ppoll, select, pselect and epoll: readiness, edges, one-shot, timeouts, masks, closing. */
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>

TEST(poll_reports_each_end_of_a_pipe) {
    int p[2];
    CHECK(pipe(p) == 0);
    struct pollfd f[3] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {-1, POLLIN, 9}};
    CHECK_EQ(poll(f, 3, 0), 1);
    CHECK(f[0].revents == 0 && f[1].revents == POLLOUT && f[2].revents == 0);
    CHECK(write(p[1], "x", 1) == 1);
    CHECK_EQ(poll(f, 3, -1), 2);
    CHECK_EQ(f[0].revents, POLLIN);
    close(p[1]);
    CHECK_EQ(poll(f, 1, 0), 1);
    CHECK_EQ(f[0].revents, POLLIN | POLLHUP);
    CHECK_EQ(poll(f + 1, 1, 0), 1);
    CHECK_EQ(f[1].revents, POLLNVAL);
    CHECK(pipe(p) == 0 && close(p[0]) == 0);
    f[0] = (struct pollfd){p[1], POLLOUT, 0};
    CHECK_EQ(poll(f, 1, 0), 1);
    CHECK(f[0].revents & POLLERR);
}

TEST(regular_files_are_always_ready) {
    write_file("f", "");
    struct pollfd f = {open("f", O_RDWR), POLLIN | POLLOUT, 0};
    CHECK_EQ(poll(&f, 1, 0), 1);
    CHECK_EQ(f.revents, POLLIN | POLLOUT);
    int ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {0}};
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, f.fd, &ev), EPERM);
}

TEST(timeouts_wait_long_enough) {
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(poll(NULL, 0, 20), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    start = now_ns(CLOCK_MONOTONIC);
    struct timeval tv = {0, 20000};
    CHECK_EQ(select(0, NULL, NULL, NULL, &tv), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    CHECK(tv.tv_sec == 0 && tv.tv_usec == 0); /* Linux writes back what is left */
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev;
    start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 20), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    struct timespec ts = {0, 15000000};
    start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(syscall(SYS_epoll_pwait2, ep, &ev, 1, &ts, NULL, 8), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 15000000);
}

TEST(a_blocked_poll_wakes_for_any_of_its_files) {
    int p[3][2];
    for (int i = 0; i < 3; i++) CHECK(pipe(p[i]) == 0);
    pid_t me = getpid();
    for (int i = 0; i < 3; i++) {
        pid_t pid = CHILD({
            wait_blocked(me);
            CHECK(write(p[i][1], "x", 1) == 1);
        });
        struct pollfd f[3] = {{p[0][0], POLLIN, 0}, {p[1][0], POLLIN, 0}, {p[2][0], POLLIN, 0}};
        CHECK_EQ(poll(f, 3, -1), 1);
        for (int j = 0; j < 3; j++) CHECK_EQ(f[j].revents, i == j ? POLLIN : 0);
        char c;
        CHECK(read(p[i][0], &c, 1) == 1);
        CHECK_EXIT(pid, 0);
    }
}

TEST(select_sets) {
    int p[2];
    fd_set r, w, e;
    CHECK(pipe(p) == 0);
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&e);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    FD_SET(p[0], &e);
    CHECK_EQ(select(p[1] + 1, &r, &w, &e, NULL), 1);
    CHECK(!FD_ISSET(p[0], &r) && FD_ISSET(p[1], &w) && !FD_ISSET(p[0], &e));
    close(p[1]);
    FD_SET(p[0], &r);
    CHECK_EQ(select(p[0] + 1, &r, NULL, NULL, NULL), 1);
    FD_SET(p[1], &r);
    CHECK_ERR(select(p[1] + 1, &r, NULL, NULL, &(struct timeval){0, 0}), EBADF);
    CHECK_ERR(select(-1, NULL, NULL, NULL, &(struct timeval){0, 0}), EINVAL);
    CHECK_ERR(select(0, NULL, NULL, NULL, &(struct timeval){-1, 0}), EINVAL);
}

static volatile sig_atomic_t signals;
static void note(int sig) {
    (void)sig;
    signals++;
}
TEST(ppoll_pselect_and_epoll_pwait_swap_the_mask) {
    handle_signal(SIGUSR1, note, 0);
    sigset_t usr1 = signal_set(SIGUSR1, 0), none = signal_set(0), now;
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    raise(SIGUSR1);
    CHECK_ERR(ppoll(NULL, 0, NULL, &none), EINTR);
    CHECK_EQ(signals, 1);
    raise(SIGUSR1);
    CHECK_ERR(pselect(0, NULL, NULL, NULL, NULL, &none), EINTR);
    CHECK_EQ(signals, 2);
    raise(SIGUSR1);
    struct epoll_event ev;
    CHECK_ERR(epoll_pwait(epoll_create1(0), &ev, 1, -1, &none), EINTR);
    CHECK_EQ(signals, 3);
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1));
}

TEST(epoll_level_triggers_as_long_as_there_is_data) {
    int p[2], ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {.u64 = 0x123456789abcdef0}}, got[4];
    CHECK(pipe(p) == 0);
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev) == 0);
    CHECK_EQ(epoll_wait(ep, got, 4, 0), 0);
    CHECK(write(p[1], "xy", 2) == 2);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(epoll_wait(ep, got, 4, -1), 1);
        CHECK(got[0].events == EPOLLIN && got[0].data.u64 == 0x123456789abcdef0);
    }
    char c[2];
    CHECK(read(p[0], c, 2) == 2);
    CHECK_EQ(epoll_wait(ep, got, 4, 0), 0);
    close(p[1]);
    CHECK_EQ(epoll_wait(ep, got, 4, 0), 1);
    CHECK_EQ(got[0].events, EPOLLHUP);
}

TEST(epoll_edge_triggers_once_per_arrival) {
    int p[2], ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN | EPOLLET, {0}}, got;
    CHECK(pipe(p) == 0 && epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev) == 0);
    CHECK(write(p[1], "x", 1) == 1);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 1);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 0);
    CHECK(write(p[1], "x", 1) == 1);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 1);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 0);
    CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &ev) == 0); /* a change looks again */
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 1);
}

TEST(epoll_oneshot_disarms_until_changed) {
    int fd = eventfd(1, 0), ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN | EPOLLONESHOT, {0}}, got;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 1);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 0);
    CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev) == 0);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 1);
}

TEST(epoll_ctl_refuses_nonsense) {
    int fd = eventfd(0, 0), ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {0}};
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev), EEXIST);
    CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL) == 0);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL), ENOENT);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev), ENOENT);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &ev), EINVAL);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, 777, &ev), EBADF);
    CHECK_ERR(epoll_ctl(fd, EPOLL_CTL_ADD, ep, &ev), EINVAL);
    CHECK_ERR(epoll_wait(ep, &ev, 0, 0), EINVAL);
    CHECK_ERR(epoll_wait(fd, &ev, 1, 0), EINVAL);
    CHECK_ERR(epoll_create(0), EINVAL);
    CHECK_ERR(epoll_create1(0x1234), EINVAL);
    int other = epoll_create1(0);
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, other, &ev) == 0);
    CHECK_ERR(epoll_ctl(other, EPOLL_CTL_ADD, ep, &ev), ELOOP);
}

TEST(epoll_of_an_epoll_and_poll_of_an_epoll) {
    int fd = eventfd(0, 0), inner = epoll_create1(0), outer = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {.fd = fd}}, got;
    CHECK(epoll_ctl(inner, EPOLL_CTL_ADD, fd, &ev) == 0);
    ev.data.fd = inner;
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &ev) == 0);
    struct pollfd pf = {outer, POLLIN, 0};
    CHECK_EQ(poll(&pf, 1, 0), 0);
    CHECK(eventfd_write(fd, 1) == 0);
    CHECK_EQ(poll(&pf, 1, -1), 1);
    CHECK(epoll_wait(outer, &got, 1, 0) == 1 && got.data.fd == inner);
    CHECK(epoll_wait(inner, &got, 1, 0) == 1 && got.data.fd == fd);
}

TEST(closing_the_last_descriptor_leaves_the_epoll_set) {
    int fd = eventfd(1, 0), other = dup(fd), ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {0}}, got;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    close(fd);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 1); /* the description lives on in `other` */
    close(other);
    CHECK_EQ(epoll_wait(ep, &got, 1, 0), 0);
}

static void *write_event(void *arg) {
    wait_blocked(getpid());
    CHECK(eventfd_write(*(int *)arg, 1) == 0);
    return NULL;
}
TEST(a_thread_blocked_in_epoll_wait_wakes) {
    int fd = eventfd(0, 0), ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {0}}, got;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    pthread_t t;
    pthread_create(&t, NULL, write_event, &fd);
    CHECK_EQ(epoll_wait(ep, &got, 1, -1), 1);
    pthread_join(t, NULL);
}

TEST(hundreds_of_descriptors) {
    enum { N = 300 };
    int fds[N], ep = epoll_create1(0), n = 0;
    for (int i = 0; i < N; i++) {
        fds[i] = eventfd(i % 3 == 0, EFD_NONBLOCK);
        struct epoll_event ev = {EPOLLIN | EPOLLOUT, {.u32 = (uint32_t)i}};
        CHECK(fds[i] >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &ev) == 0);
    }
    static struct epoll_event got[N];
    CHECK_EQ(epoll_wait(ep, got, N, 0), N);
    for (int i = 0; i < N; i++) n += (got[i].events & EPOLLIN) != 0;
    CHECK_EQ(n, 100);
    CHECK_EQ(epoll_wait(ep, got, 10, 0), 10);
}

TEST(epollrdhup_and_half_closed_sockets) {
    int s[2], ep = epoll_create1(0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    struct epoll_event ev = {EPOLLIN | EPOLLRDHUP | EPOLLOUT, {0}}, got;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, s[0], &ev) == 0);
    CHECK(epoll_wait(ep, &got, 1, 0) == 1 && got.events == EPOLLOUT);
    CHECK(shutdown(s[1], SHUT_WR) == 0);
    CHECK(epoll_wait(ep, &got, 1, 0) == 1 && got.events == (EPOLLIN | EPOLLRDHUP | EPOLLOUT));
    close(s[1]);
    CHECK(epoll_wait(ep, &got, 1, 0) == 1 && (got.events & EPOLLHUP));
}
