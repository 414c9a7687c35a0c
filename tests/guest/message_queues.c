/* POSIX message queues: priorities, waiting, notification, limits, and the mqueue file system. */
#include "check.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/vfs.h>

static char name[40];
static mqd_t queue(long messages, long size, int flags) {
    snprintf(name, sizeof name, "/guest.%d", getpid());
    struct mq_attr attr = {.mq_maxmsg = messages, .mq_msgsize = size};
    mq_unlink(name);
    mqd_t q = mq_open(name, O_CREAT | O_EXCL | O_RDWR | flags, 0600, &attr);
    CHECK(q >= 0);
    return q;
}
static void send_text(mqd_t q, const char *text, unsigned priority) {
    CHECK(mq_send(q, text, strlen(text), priority) == 0);
}
#define RECEIVE(q, text, priority)                                                             \
    do {                                                                                       \
        char b_[64] = {0};                                                                     \
        unsigned p_ = 99;                                                                      \
        CHECK_EQ(mq_receive(q, b_, sizeof b_, &p_), strlen(text));                             \
        CHECK_STR(b_, text);                                                                   \
        CHECK_EQ(p_, priority);                                                                \
    } while (0)

TEST(messages_come_by_priority_then_by_age) {
    mqd_t q = queue(8, 64, 0);
    send_text(q, "low", 1);
    send_text(q, "first", 7);
    send_text(q, "", 0);
    send_text(q, "second", 7);
    struct mq_attr now;
    CHECK(mq_getattr(q, &now) == 0);
    CHECK(now.mq_curmsgs == 4 && now.mq_maxmsg == 8 && now.mq_msgsize == 64 && now.mq_flags == 0);
    RECEIVE(q, "first", 7);
    RECEIVE(q, "second", 7);
    RECEIVE(q, "low", 1);
    RECEIVE(q, "", 0);
    CHECK(mq_unlink(name) == 0);
    CHECK_ERR(mq_unlink(name), ENOENT);
    send_text(q, "lives on", 0); /* until it is closed */
    RECEIVE(q, "lives on", 0);
}

TEST(names_and_modes) {
    mqd_t q = queue(2, 64, 0);
    CHECK_EQ(fcntl(q, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, NULL), EEXIST);
    CHECK_ERR(mq_open("/guest.none", O_RDWR), ENOENT);
    CHECK_ERR(mq_open("/a/b", O_RDWR), EACCES);
    CHECK_ERR(syscall(SYS_mq_open, "", O_RDWR, 0, NULL), ENOENT);
    CHECK_ERR(syscall(SYS_mq_open, "..", O_RDWR, 0, NULL), EACCES);
    char long_name[300];
    memset(long_name, 'x', sizeof long_name);
    long_name[0] = '/', long_name[299] = 0;
    CHECK_ERR(mq_open(long_name, O_RDWR), ENAMETOOLONG);
    CHECK_ERR(syscall(SYS_mq_open, name + 1, O_ACCMODE, 0, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_mq_open, name + 1, O_RDWR, 0, (void *)8), EFAULT);
    mqd_t r = mq_open(name, O_RDONLY), w = mq_open(name, O_WRONLY);
    CHECK(r >= 0 && w >= 0);
    CHECK_ERR(mq_send(r, "x", 1, 0), EBADF);
    char b[64];
    CHECK_ERR(mq_receive(w, b, sizeof b, NULL), EBADF);
    CHECK_ERR(mq_send(1, "x", 1, 0), EBADF);
    CHECK_ERR(mq_receive(q, b, 63, NULL), EMSGSIZE);
    CHECK_ERR(mq_send(q, b, 65, 0), EMSGSIZE);
    CHECK_ERR(mq_send(q, b, 1, 32768), EINVAL);
    CHECK(mq_send(q, "x", 1, 32767) == 0);
    CHECK_ERR(mq_send(q, (char *)8, 1, 0), EFAULT);
    CHECK_ERR(write(q, "x", 1), EINVAL);
    /* Others may not. */
    pid_t pid = CHILD({
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        CHECK_ERR(mq_open(name, O_RDONLY), EACCES);
        CHECK_ERR(mq_unlink(name), EACCES); /* says the C library; the kernel says: */
        CHECK_ERR(syscall(SYS_mq_unlink, name + 1), EPERM);
        CHECK(mq_receive(r, b, sizeof b, NULL) == 1); /* what is open is open */
    });
    CHECK_EXIT(pid, 0);
    CHECK(fchmod(q, 0604) == 0);
    pid = CHILD({
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        CHECK(mq_open(name, O_RDONLY) >= 0);
        CHECK_ERR(mq_open(name, O_RDWR), EACCES);
    });
    CHECK_EXIT(pid, 0);
    mq_unlink(name);
}

TEST(umask_counts_and_defaults_are_those_of_proc) {
    umask(027);
    mq_unlink("/guest.default");
    mqd_t q = mq_open("/guest.default", O_CREAT | O_RDWR, 0666, NULL);
    struct stat st;
    CHECK(q >= 0 && fstat(q, &st) == 0);
    CHECK_EQ(st.st_mode, S_IFREG | 0640);
    CHECK_EQ(st.st_size, 80);
    CHECK_EQ(st.st_nlink, 1);
    struct mq_attr attr;
    CHECK(mq_getattr(q, &attr) == 0 && attr.mq_maxmsg == 10 && attr.mq_msgsize == 8192);
    CHECK(mq_unlink("/guest.default") == 0);
    CHECK(fstat(q, &st) == 0 && st.st_nlink == 0);
    FILE *f = fopen("/proc/sys/fs/mqueue/msg_max", "r");
    int number = 0;
    CHECK(f && fscanf(f, "%d", &number) == 1 && number == 10);
    char path[64] = {0}, link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", q);
    CHECK(readlink(link, path, sizeof path) > 0 && !strncmp(path, "/guest.default", 14));
}

TEST(nonblocking_full_and_empty) {
    mqd_t q = queue(2, 64, O_NONBLOCK);
    char b[64];
    CHECK_ERR(mq_receive(q, b, sizeof b, NULL), EAGAIN);
    send_text(q, "1", 0);
    send_text(q, "2", 0);
    CHECK_ERR(mq_send(q, "3", 1, 0), EAGAIN);
    struct mq_attr attr = {.mq_flags = 0}, old;
    CHECK(mq_setattr(q, &attr, &old) == 0);
    CHECK(old.mq_flags == O_NONBLOCK && old.mq_curmsgs == 2);
    CHECK_EQ(fcntl(q, F_GETFL), O_RDWR);
    attr.mq_flags = O_NONBLOCK | O_APPEND;
    CHECK_ERR(mq_setattr(q, &attr, NULL), EINVAL);
    attr.mq_flags = O_NONBLOCK;
    CHECK(mq_setattr(q, &attr, NULL) == 0 && fcntl(q, F_GETFL) == (O_RDWR | O_NONBLOCK));
    CHECK_ERR(mq_getattr(1, &old), EBADF);
    CHECK_ERR(mq_getattr(77, &old), EBADF);
    mq_unlink(name);
}

TEST(timeouts_are_absolute) {
    mqd_t q = queue(1, 64, 0);
    char b[64];
    struct timespec past = {1, 0}, bad = {1, 1000000000}, soon;
    CHECK_ERR(mq_timedreceive(q, b, sizeof b, NULL, &past), ETIMEDOUT);
    CHECK_ERR(mq_timedreceive(q, b, sizeof b, NULL, &bad), EINVAL);
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 20000000;
    if (soon.tv_nsec >= 1000000000) soon.tv_nsec -= 1000000000, soon.tv_sec++;
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(mq_timedreceive(q, b, sizeof b, NULL, &soon), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 15000000);
    CHECK(mq_timedsend(q, "now", 3, 0, &past) == 0);
    CHECK_ERR(mq_timedsend(q, "late", 4, 0, &past), ETIMEDOUT);
    CHECK(mq_timedreceive(q, b, sizeof b, NULL, &past) == 3);
    struct mq_attr now;
    CHECK(mq_getattr(q, &now) == 0 && now.mq_curmsgs == 0);
    mq_unlink(name);
}

TEST(a_receiver_waits_for_a_message) {
    mqd_t q = queue(1, 64, 0);
    pid_t pid = CHILD(RECEIVE(q, "hello", 3));
    wait_blocked(pid);
    send_text(q, "hello", 3);
    struct mq_attr now; /* it went straight to the receiver */
    CHECK(mq_getattr(q, &now) == 0 && now.mq_curmsgs == 0);
    CHECK_EXIT(pid, 0);
    mq_unlink(name);
}

TEST(a_sender_waits_for_room_and_its_message_follows_at_once) {
    mqd_t q = queue(1, 64, 0);
    send_text(q, "one", 0);
    pid_t pid = CHILD(send_text(q, "two", 9));
    wait_blocked(pid);
    fcntl(q, F_SETFL, O_NONBLOCK);
    RECEIVE(q, "one", 0);
    RECEIVE(q, "two", 9);
    CHECK_EXIT(pid, 0);
    mq_unlink(name);
}

TEST(receivers_are_served_in_the_order_in_which_they_came) {
    mqd_t q = queue(4, 64, 0);
    pid_t first = CHILD(RECEIVE(q, "1", 0));
    wait_blocked(first);
    pid_t second = CHILD(RECEIVE(q, "2", 0));
    wait_blocked(second);
    send_text(q, "1", 0);
    send_text(q, "2", 0);
    CHECK_EXIT(first, 0);
    CHECK_EXIT(second, 0);
    mq_unlink(name);
}

static volatile sig_atomic_t caught;
static siginfo_t caught_info;
static void on_signal(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)context;
    caught_info = *info;
    caught++;
}

TEST(a_signal_interrupts_or_restarts) {
    mqd_t q = queue(1, 64, 0);
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t pid = CHILD({
        struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
        sigaction(SIGUSR1, &sa, NULL);
        char b[64];
        CHECK(write(ready[1], "1", 1) == 1);
        CHECK_ERR(mq_receive(q, b, sizeof b, NULL), EINTR);
        sa.sa_flags |= SA_RESTART;
        sigaction(SIGUSR1, &sa, NULL);
        CHECK(write(ready[1], "2", 1) == 1);
        RECEIVE(q, "after", 0);
        CHECK_EQ(caught, 2);
    });
    for (int round = 0; round < 2; round++) {
        char b;
        CHECK(read(ready[0], &b, 1) == 1);
        wait_blocked(pid);
        CHECK(kill(pid, SIGUSR1) == 0);
    }
    wait_blocked(pid);
    send_text(q, "after", 0);
    CHECK_EXIT(pid, 0);
    mq_unlink(name);
}

TEST(notification_by_signal_comes_once_for_an_empty_queue) {
    mqd_t q = queue(4, 64, 0);
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &sa, NULL);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 4711};
    CHECK(mq_notify(q, &ev) == 0);
    CHECK_ERR(mq_notify(q, &ev), EBUSY);
    pid_t pid = CHILD({
        CHECK_ERR(mq_notify(q, &ev), EBUSY);
        CHECK(mq_notify(q, NULL) == 0); /* does nothing: it is not his */
        send_text(q, "a", 0);
        send_text(q, "b", 0);
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(caught, 1);
    CHECK(caught_info.si_code == SI_MESGQ && caught_info.si_pid == pid && caught_info.si_uid == getuid());
    CHECK_EQ(caught_info.si_value.sival_int, 4711);
    RECEIVE(q, "a", 0);
    RECEIVE(q, "b", 0);
    send_text(q, "c", 0); /* the registration is used up */
    CHECK_EQ(caught, 1);
    CHECK(mq_notify(q, &ev) == 0);
    send_text(q, "d", 0); /* not empty */
    CHECK_EQ(caught, 1);
    CHECK(mq_notify(q, NULL) == 0);
    CHECK(mq_notify(q, &ev) == 0);
    int copy = dup(q);
    CHECK(close(copy) == 0); /* any close ends it */
    CHECK(mq_notify(q, &ev) == 0);
    mq_unlink(name);
}

TEST(a_waiting_receiver_comes_before_the_notification) {
    mqd_t q = queue(4, 64, 0);
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &sa, NULL);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK(mq_notify(q, &ev) == 0);
    pid_t pid = CHILD(RECEIVE(q, "his", 0));
    wait_blocked(pid);
    send_text(q, "his", 0);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(caught, 0);
    send_text(q, "mine", 0);
    CHECK_EQ(caught, 1);
    mq_unlink(name);
}

TEST(other_notifications) {
    mqd_t q = queue(4, 64, 0);
    struct sigevent none = {.sigev_notify = SIGEV_NONE};
    pid_t pid = CHILD(CHECK(mq_notify(q, &none) == 0)); /* its end frees the place */
    CHECK_EXIT(pid, 0);
    CHECK(mq_notify(q, &none) == 0);
    CHECK_ERR(mq_notify(q, &none), EBUSY);
    char text[100] = {0}, want[100];
    CHECK_EQ(pread(q, text, sizeof text, 0), 60);
    snprintf(want, sizeof want, "QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n", 0, SIGEV_NONE, 0, getpid());
    CHECK_STR(text, want);
    send_text(q, "four", 0);
    CHECK(pread(q, text, sizeof text, 0) == 60 && !strncmp(text, "QSIZE:4 ", 8) && strstr(text, "NOTIFY_PID:0"));
    struct sigevent bad = {.sigev_notify = 77};
    CHECK_ERR(mq_notify(q, &bad), EINVAL);
    bad = (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 65};
    CHECK_ERR(mq_notify(q, &bad), EINVAL);
    CHECK_ERR(syscall(SYS_mq_notify, 1, &none), EBADF);
    char cookie[32];
    bad = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_signo = q, .sigev_value.sival_ptr = cookie};
    CHECK_ERR(syscall(SYS_mq_notify, q, &bad), ENOTSOCK);
    mq_unlink(name);
}

TEST(queues_can_be_polled) {
    mqd_t q = queue(1, 64, 0);
    struct pollfd pf = {q, POLLIN | POLLOUT, 0};
    CHECK(poll(&pf, 1, 0) == 1 && pf.revents == POLLOUT);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN}, out;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, q, &ev) == 0);
    CHECK_EQ(epoll_wait(ep, &out, 1, 0), 0);
    pid_t pid = CHILD(CHECK(epoll_wait(ep, &out, 1, -1) == 1 && out.events == EPOLLIN));
    wait_blocked(pid);
    send_text(q, "x", 0);
    CHECK_EXIT(pid, 0);
    CHECK(poll(&pf, 1, 0) == 1 && pf.revents == POLLIN);
    pf.events = POLLOUT;
    pid = CHILD(CHECK(poll(&pf, 1, -1) == 1 && pf.revents == POLLOUT));
    wait_blocked(pid);
    RECEIVE(q, "x", 0);
    CHECK_EXIT(pid, 0);
    mq_unlink(name);
}

static mqd_t open_with(const char *path, long messages, long size) {
    struct mq_attr attr = {.mq_maxmsg = messages, .mq_msgsize = size};
    return mq_open(path, O_CREAT | O_EXCL | O_RDWR, 0600, &attr);
}

TEST(limits_bind_the_unprivileged) {
    pid_t pid = CHILD({
        CHECK(setgid(4321) == 0 && setuid(4321) == 0);
        CHECK_ERR(open_with("/guest.big", 11, 64), EINVAL);
        CHECK_ERR(open_with("/guest.big", 1, 8193), EINVAL);
        CHECK_ERR(open_with("/guest.big", 0, 64), EINVAL);
        CHECK_ERR(open_with("/guest.big", 1, -1), EINVAL);
        struct rlimit limit = {10 * (8192 + 96), 10 * (8192 + 96)};
        CHECK(setrlimit(RLIMIT_MSGQUEUE, &limit) == 0);
        mqd_t q = open_with("/guest.one", 10, 8192);
        CHECK(q >= 0);
        CHECK_ERR(open_with("/guest.two", 1, 64), EMFILE);
        CHECK(mq_unlink("/guest.one") == 0);
        CHECK_ERR(open_with("/guest.two", 1, 64), EMFILE); /* it is still open */
        CHECK(mq_close(q) == 0);
        CHECK(open_with("/guest.two", 1, 64) >= 0 && mq_unlink("/guest.two") == 0);
    });
    CHECK_EXIT(pid, 0);
}

TEST(the_file_system_shows_the_queues) {
    mqd_t q = queue(4, 64, 0);
    CHECK(mkdir("m", 0755) == 0 && mount("none", "m", "mqueue", 0, NULL) == 0);
    struct statfs fs;
    CHECK(statfs("m", &fs) == 0 && fs.f_type == 0x19800202);
    struct stat st, other;
    CHECK(stat("m", &st) == 0 && st.st_mode == (S_IFDIR | 01777));
    char path[64], text[100] = {0};
    snprintf(path, sizeof path, "m%s", name);
    CHECK(stat(path, &st) == 0 && fstat(q, &other) == 0);
    CHECK(st.st_ino == other.st_ino && st.st_dev == other.st_dev && st.st_size == 80);
    send_text(q, "12345", 0);
    int fd = open(path, O_RDWR);
    CHECK(read(fd, text, sizeof text) == 60 && !strncmp(text, "QSIZE:5 ", 8));
    CHECK_EQ(read(fd, text, sizeof text), 0);
    RECEIVE(fd, "12345", 0); /* a file of it is a queue */
    CHECK(close(fd) == 0 && unlink(path) == 0);
    CHECK_ERR(mq_open(name, O_RDWR), ENOENT);
    CHECK_ERR(stat(path, &st), ENOENT);
    fd = open("m/made", O_CREAT | O_RDWR, 0600);
    struct mq_attr attr;
    CHECK(fd >= 0 && mq_getattr(fd, &attr) == 0 && attr.mq_maxmsg == 10);
    CHECK(mq_open("/made", O_RDONLY) >= 0);
    CHECK_ERR(mkdir("m/d", 0700), EPERM);
    CHECK_ERR(rename("m/made", "m/other"), EPERM);
    CHECK_ERR(link("m/made", "m/other"), EPERM);
    CHECK(mq_unlink("/made") == 0 && access("m/made", F_OK) == -1);
    CHECK(close(fd) == 0 && umount("m") == 0);
}
