/*
 * The frame every guest program stands in. A program is one family of tests:
 *
 *     TEST(name) { ... CHECK(condition); ... }
 *
 *     prog --list     prints the names
 *     prog NAME       runs one test in this very process (best under a tracer)
 *     prog --all      runs each in a forked child, prints "ok NAME" or "not ok NAME"
 *
 * The frame itself needs little of the kernel: write, fork, waitpid, alarm, mkdtemp.
 * A test runs in an empty directory of its own, as the leader of its process group.
 * Tests expect to run as root; one that depends on more than that says so.
 * No test orders events by sleeping: wait_blocked() waits until a thread sleeps in
 * the kernel, everything else is a pipe, a wait or a futex.
 */
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_SECONDS 20
#define MAX_TESTS 128

struct test {
    const char *name;
    void (*run)(void);
};
static struct test tests[MAX_TESTS];
static int test_count;
static const char *running = "?";

#define TEST(test_name)                                                                        \
    static void test_##test_name(void);                                                        \
    __attribute__((constructor)) static void register_##test_name(void) {                      \
        tests[test_count++] = (struct test){#test_name, test_##test_name};                     \
    }                                                                                          \
    static void test_##test_name(void)

__attribute__((noreturn, format(printf, 3, 4))) static void fail(const char *file, int line, const char *fmt, ...) {
    char text[600];
    int saved = errno;
    int n = snprintf(text, sizeof text, "%s: %s:%d: ", running, file, line);
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(text + n, sizeof text - n, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof text - 60) n = sizeof text - 60;
    n += snprintf(text + n, sizeof text - n, " (errno %d, %s)\n", saved, strerror(saved));
    ssize_t unused = write(2, text, n);
    (void)unused;
    _exit(1);
}

#define CHECK(cond)                                                                            \
    do {                                                                                       \
        if (!(cond)) fail(__FILE__, __LINE__, "CHECK(%s)", #cond);                             \
    } while (0)

#define CHECK_EQ(a, b)                                                                         \
    do {                                                                                       \
        long long a_ = (long long)(a), b_ = (long long)(b);                                    \
        if (a_ != b_) fail(__FILE__, __LINE__, "%s is %lld, %s is %lld", #a, a_, #b, b_);      \
    } while (0)

#define CHECK_STR(a, b)                                                                        \
    do {                                                                                       \
        const char *a_ = (a), *b_ = (b);                                                       \
        if (strcmp(a_, b_)) fail(__FILE__, __LINE__, "%s is \"%s\", want \"%s\"", #a, a_, b_); \
    } while (0)

/* The call must return -1 with this errno. */
#define CHECK_ERR(call, want)                                                                  \
    do {                                                                                       \
        errno = 0;                                                                             \
        long long r_ = (long long)(call);                                                      \
        if (r_ != -1 || errno != (want))                                                       \
            fail(__FILE__, __LINE__, "%s returned %lld, want -1 and %s", #call, r_, #want);    \
    } while (0)

/* The child must have ended with exit status `want`. */
#define CHECK_EXIT(pid, want)                                                                  \
    do {                                                                                       \
        int st_ = -1;                                                                          \
        pid_t p_ = (pid);                                                                      \
        CHECK(waitpid(p_, &st_, __WALL) == p_);                                                \
        if (!WIFEXITED(st_) || WEXITSTATUS(st_) != (want))                                     \
            fail(__FILE__, __LINE__, "child status %#x, want exit %d", st_, (int)(want));      \
    } while (0)

/* The child must have been killed by signal `want`. */
#define CHECK_KILLED(pid, want)                                                                \
    do {                                                                                       \
        int st_ = -1;                                                                          \
        pid_t p_ = (pid);                                                                      \
        CHECK(waitpid(p_, &st_, __WALL) == p_);                                                \
        if (!WIFSIGNALED(st_) || WTERMSIG(st_) != (want))                                      \
            fail(__FILE__, __LINE__, "child status %#x, want signal %d", st_, (int)(want));    \
    } while (0)

/* Runs the block in a forked child that exits 0 at its end; gives the child's pid. */
#define CHILD(...)                                                                             \
    ({                                                                                         \
        pid_t c_ = fork();                                                                     \
        CHECK(c_ >= 0);                                                                        \
        if (c_ == 0) {                                                                         \
            __VA_ARGS__;                                                                       \
            _exit(0);                                                                          \
        }                                                                                      \
        c_;                                                                                    \
    })

__attribute__((unused)) static pid_t my_tid(void) { return (pid_t)syscall(SYS_gettid); }

/* The state letter of a thread in /proc, or 0 when it is gone. */
__attribute__((unused)) static char thread_state(pid_t tid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *end = strrchr(text, ')');
    return end ? end[2] : 0;
}

/* Waits until a thread sleeps in the kernel (or is stopped, or a zombie). */
__attribute__((unused)) static void wait_blocked(pid_t tid) {
    for (int i = 0; i < 5000; i++) {
        char state = thread_state(tid);
        if (state == 'S' || state == 'D' || state == 'T' || state == 't' || state == 'Z') return;
        usleep(1000);
    }
    fail(__FILE__, __LINE__, "thread %d never blocked", tid);
}

__attribute__((unused)) static long long now_ns(clockid_t clock) {
    struct timespec ts;
    CHECK(clock_gettime(clock, &ts) == 0);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

__attribute__((unused)) static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    CHECK(close(fd) == 0);
}

/* Reads a whole file into a static buffer, with a zero after it; gives its length. */
static char file_text[1 << 18];
__attribute__((unused)) static ssize_t read_file(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(__FILE__, __LINE__, "cannot open %s", path);
    ssize_t total = 0, n;
    while ((n = read(fd, file_text + total, sizeof file_text - 1 - total)) > 0) total += n;
    if (n < 0) fail(__FILE__, __LINE__, "cannot read %s", path);
    close(fd);
    file_text[total] = 0;
    return total;
}

__attribute__((unused)) static void handle_signal(int sig, void (*handler)(int), int flags) {
    struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(sig, &sa, NULL) == 0);
}

__attribute__((unused)) static sigset_t signal_set(int first, ...) {
    sigset_t set;
    sigemptyset(&set);
    va_list ap;
    va_start(ap, first);
    for (int s = first; s; s = va_arg(ap, int)) sigaddset(&set, s);
    va_end(ap);
    return set;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path), 0;
}

static char test_dir[64];
static void enter_own_directory(void) {
    strcpy(test_dir, "/tmp/guest.XXXXXX");
    if (!mkdtemp(test_dir) || chdir(test_dir)) {
        dprintf(2, "%s: no directory of its own (%s)\n", running, strerror(errno));
        test_dir[0] = 0;
    }
}
static void leave_own_directory(void) {
    if (!test_dir[0] || chdir("/")) return;
    nftw(test_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static volatile pid_t test_pid;
static void on_test_timeout(int sig) {
    (void)sig;
    kill(-test_pid, SIGKILL);
    kill(test_pid, SIGKILL);
}

static bool run_forked(const struct test *t) {
    running = t->name;
    enter_own_directory();
    pid_t pid = fork();
    if (pid < 0) fail(__FILE__, __LINE__, "fork for the test");
    if (pid == 0) {
        setpgid(0, 0);
        signal(SIGALRM, SIG_DFL);
        t->run();
        _exit(0);
    }
    test_pid = pid;
    struct sigaction sa = {.sa_handler = on_test_timeout};
    sigaction(SIGALRM, &sa, NULL);
    alarm(TEST_SECONDS);
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    alarm(0);
    kill(-pid, SIGKILL); /* whatever the test left behind */
    leave_own_directory();
    if (WIFSIGNALED(status)) dprintf(2, "%s: killed by signal %d\n", t->name, WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Whoever started us may ignore or block signals; a test counts on the defaults. */
static void default_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    for (int sig = 1; sig < NSIG; sig++) signal(sig, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A program that must do something before main's work (an exec'd second self) defines this. */
#ifdef HAVE_ROLES
static int play_role(int argc, char **argv);
#endif

static char **program_argv;

int main(int argc, char **argv) {
    program_argv = argv;
#ifdef HAVE_ROLES
    if (argc > 2 && !strcmp(argv[1], "--role")) return play_role(argc - 2, argv + 2);
#endif
    default_signals();
    if (argc == 2 && !strcmp(argv[1], "--list")) {
        for (int i = 0; i < test_count; i++) dprintf(1, "%s\n", tests[i].name);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--all")) {
        int failed = 0;
        for (int i = 0; i < test_count; i++) {
            bool ok = run_forked(&tests[i]);
            dprintf(1, "%s %s\n", ok ? "ok" : "not ok", tests[i].name);
            failed += !ok;
        }
        return failed ? 1 : 0;
    }
    for (int i = 0; argc == 2 && i < test_count; i++) {
        if (strcmp(argv[1], tests[i].name)) continue;
        running = tests[i].name;
        enter_own_directory();
        tests[i].run();
        leave_own_directory();
        dprintf(1, "ok %s\n", tests[i].name);
        return 0;
    }
    dprintf(2, "usage: %s --list | --all | NAME\n", argv[0]);
    return 2;
}
