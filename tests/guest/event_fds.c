/* eventfd, timerfd, signalfd. */
#include "check.h"
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

TEST(eventfd_counts) {
    int fd = eventfd(3, EFD_NONBLOCK);
    uint64_t v;
    CHECK(read(fd, &v, 8) == 8 && v == 3);
    CHECK_ERR(read(fd, &v, 8), EAGAIN);
    v = 5;
    CHECK(write(fd, &v, 8) == 8 && write(fd, &v, 8) == 8);
    CHECK(read(fd, &v, 8) == 8 && v == 10);
    v = ~0ULL;
    CHECK_ERR(write(fd, &v, 8), EINVAL);
    v = ~0ULL - 1;
    CHECK(write(fd, &v, 8) == 8);
    v = 1;
    CHECK_ERR(write(fd, &v, 8), EAGAIN);
    CHECK_ERR(read(fd, &v, 4), EINVAL);
    struct pollfd pf = {fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&pf, 1, 0) == 1 && pf.revents == POLLIN);
}

TEST(eventfd_semaphore_hands_out_ones) {
    int fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t v;
    CHECK(read(fd, &v, 8) == 8 && v == 1 && read(fd, &v, 8) == 8 && v == 1);
    CHECK_ERR(read(fd, &v, 8), EAGAIN);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(eventfd(0, 0x7777), EINVAL);
}

TEST(a_reader_of_an_eventfd_blocks_until_a_write) {
    int fd = eventfd(0, 0);
    pid_t pid = CHILD({
        uint64_t v;
        CHECK(read(fd, &v, 8) == 8 && v == 77);
    });
    wait_blocked(pid);
    CHECK(eventfd_write(fd, 77) == 0);
    CHECK_EXIT(pid, 0);
}

TEST(timerfd_once_and_again) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    CHECK(fd >= 0);
    struct itimerspec it = {{0, 0}, {0, 20000000}}, now;
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK(timerfd_settime(fd, 0, &it, NULL) == 0);
    CHECK(timerfd_gettime(fd, &now) == 0 && now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 20000000);
    uint64_t n;
    CHECK(read(fd, &n, 8) == 8 && n == 1);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    CHECK(timerfd_gettime(fd, &now) == 0 && now.it_value.tv_nsec == 0 && now.it_value.tv_sec == 0);
    it = (struct itimerspec){{0, 5000000}, {0, 5000000}};
    CHECK(timerfd_settime(fd, 0, &it, NULL) == 0);
    long long until = now_ns(CLOCK_MONOTONIC) + 30000000;
    uint64_t total = 0;
    while (now_ns(CLOCK_MONOTONIC) < until) {
        CHECK(read(fd, &n, 8) == 8 && n >= 1);
        total += n;
    }
    CHECK(total >= 5 && total < 1000);
}

TEST(timerfd_absolute_nonblocking_and_poll) {
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    uint64_t n;
    CHECK_ERR(read(fd, &n, 8), EAGAIN);
    struct itimerspec it = {{0, 0}, {1, 0}}; /* long past */
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &it, NULL) == 0);
    struct pollfd pf = {fd, POLLIN, 0};
    CHECK(poll(&pf, 1, 2000) == 1 && read(fd, &n, 8) == 8 && n == 1);
    it.it_value = (struct timespec){100, 0};
    CHECK(timerfd_settime(fd, 0, &it, NULL) == 0);
    struct itimerspec old;
    it.it_value = (struct timespec){0, 0};
    CHECK(timerfd_settime(fd, 0, &it, &old) == 0 && old.it_value.tv_sec >= 98);
    CHECK_EQ(poll(&pf, 1, 0), 0);
    it.it_value.tv_nsec = 1000000000;
    CHECK_ERR(timerfd_settime(fd, 0, &it, NULL), EINVAL);
    CHECK_ERR(timerfd_create(77, 0), EINVAL);
    CHECK_ERR(timerfd_settime(0, 0, &(struct itimerspec){0}, NULL), EINVAL);
}

TEST(signalfd_takes_blocked_signals) {
    sigset_t set = signal_set(SIGUSR1, SIGRTMIN, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    CHECK(fd >= 0);
    struct signalfd_siginfo si[3];
    CHECK_ERR(read(fd, si, sizeof si), EAGAIN);
    raise(SIGUSR1);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 42});
    struct pollfd pf = {fd, POLLIN, 0};
    CHECK(poll(&pf, 1, 0) == 1);
    CHECK_EQ(read(fd, si, sizeof si), 2 * sizeof *si);
    CHECK(si[0].ssi_signo == SIGUSR1 && si[0].ssi_pid == (uint32_t)getpid());
    CHECK(si[1].ssi_signo == (uint32_t)SIGRTMIN && si[1].ssi_int == 42 && si[1].ssi_code == SI_QUEUE);
    CHECK_ERR(read(fd, si, 10), EINVAL);
    sigset_t other = signal_set(SIGUSR2, 0);
    CHECK_EQ(signalfd(fd, &other, 0), fd);
    raise(SIGUSR1);
    CHECK_ERR(read(fd, si, sizeof si), EAGAIN);
}

TEST(signalfd_reports_children) {
    sigset_t set = signal_set(SIGCHLD, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, 0);
    pid_t pid = CHILD(_exit(12));
    struct signalfd_siginfo si;
    CHECK_EQ(read(fd, &si, sizeof si), sizeof si);
    CHECK(si.ssi_pid == (uint32_t)pid && si.ssi_status == 12 && si.ssi_code == CLD_EXITED);
    CHECK_EXIT(pid, 12);
}
