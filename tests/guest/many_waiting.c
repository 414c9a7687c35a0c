/*
 * Many threads that wait at the same time, in calls of every kind. A sandbox may let the many wait otherwise than the few:
 * nothing may come of it. Whoever waits is woken with his own answer, interrupted, timed out, restarted, copied around and
 * ended like one that waits alone.
 */
#include "check.h"
#include <linux/futex.h>
#include <stdatomic.h>

enum { MANY = 100, CROWD = 400, STACK = 65536 };

static void start(pthread_t *t, void *(*run)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    CHECK(pthread_create(t, &attr, run, arg) == 0);
    pthread_attr_destroy(&attr);
}

struct waiter {
    pthread_t thread;
    atomic_int tid;
    int number, in[2], out[2];
};
static struct waiter waiters[CROWD];

static void start_waiters(int n, void *(*run)(void *)) {
    for (int i = 0; i < n; i++) {
        waiters[i].number = i;
        waiters[i].tid = 0;
        start(&waiters[i].thread, run, &waiters[i]);
    }
    for (int i = 0; i < n; i++) {
        while (!waiters[i].tid) usleep(200);
        /* Of a crowd it is enough to know that nearly all do. */
        if (n <= MANY || i % 16 == 0) wait_blocked(waiters[i].tid);
    }
}
static void join_waiters(int n) {
    for (int i = 0; i < n; i++) {
        void *result;
        CHECK(pthread_join(waiters[i].thread, &result) == 0);
        if (result) fail(__FILE__, __LINE__, "waiter %d: %s", i, (char *)result);
    }
}
static void signal_waiters(int n, int sig) {
    for (int i = 0; i < n; i++) CHECK(syscall(SYS_tgkill, getpid(), waiters[i].tid, sig) == 0);
}

static atomic_int handled;
static void count(int sig) {
    (void)sig;
    atomic_fetch_add(&handled, 1);
}
static void handler_ran(int times) {
    while (atomic_load(&handled) < times) usleep(500);
}

/* Answers each byte with the next one, until 0. */
static void *answer_bytes(void *arg) {
    struct waiter *w = arg;
    w->tid = my_tid();
    for (;;) {
        unsigned char c = 0x55;
        if (read(w->in[0], &c, 1) != 1) return "read";
        if (!c) return NULL;
        c++;
        if (write(w->out[1], &c, 1) != 1) return "write";
    }
}
static void open_pipes(int n) {
    struct rlimit many = {4096, 4096};
    CHECK(setrlimit(RLIMIT_NOFILE, &many) == 0);
    for (int i = 0; i < n; i++) CHECK(pipe(waiters[i].in) == 0 && pipe(waiters[i].out) == 0);
}
static void ask(int i, unsigned char c) { CHECK(write(waiters[i].in[1], &c, 1) == 1); }
static void expect(int i, unsigned char want) {
    unsigned char c = 0;
    CHECK(read(waiters[i].out[0], &c, 1) == 1);
    CHECK_EQ(c, want);
}
static void ask_all(int n) {
    for (int round = 1; round < 4; round++) {
        for (int i = 0; i < n; i++) ask(i * 7 % n, 10 * round + i % 9);
        /* 7 * 43 is 1 more than a multiple of 100 */
        for (int i = 0; i < n; i++) expect(i, 10 * round + i * 43 % n % 9 + 1);
    }
}

TEST(each_of_many_waiters_gets_its_own_answer) {
    open_pipes(MANY);
    start_waiters(MANY, answer_bytes);
    for (int round = 1; round < 5; round++) {
        for (int i = 0; i < MANY; i++) ask(i, 20 * round + i % 19);
        for (int i = MANY; i-- > 0;) expect(i, 20 * round + i % 19 + 1);
        for (int i = 0; i < 50; i++) {
            int k = (i * 37 + round) % MANY;
            ask(k, 200);
            expect(k, 201);
        }
    }
    for (int i = 0; i < MANY; i++) ask(i, 0);
    join_waiters(MANY);
}

static void *pause_once(void *arg) {
    struct waiter *w = arg;
    w->tid = my_tid();
    if (pause() != -1 || errno != EINTR) return "pause";
    return NULL;
}
TEST(a_signal_ends_the_wait_of_each_of_many) {
    handled = 0;
    handle_signal(SIGUSR1, count, 0);
    start_waiters(MANY, pause_once);
    signal_waiters(MANY, SIGUSR1);
    join_waiters(MANY);
    CHECK_EQ(handled, MANY);
}

TEST(many_waits_go_on_after_a_handler) {
    handled = 0;
    handle_signal(SIGUSR1, count, SA_RESTART);
    open_pipes(MANY);
    start_waiters(MANY, answer_bytes);
    for (int round = 1; round < 4; round++) {
        signal_waiters(MANY, SIGUSR1);
        handler_ran(round * MANY);
    }
    for (int i = 0; i < MANY; i++) ask(i, i % 100 + 1);
    for (int i = 0; i < MANY; i++) expect(i, i % 100 + 2);
    for (int i = 0; i < MANY; i++) ask(i, 0);
    join_waiters(MANY);
}

static void *time_out(void *arg) {
    struct waiter *w = arg;
    int word = 0;
    struct timespec span = {0, 300000000};
    struct pollfd none = {-1, 0, 0};
    long long begin = now_ns(CLOCK_MONOTONIC);
    w->tid = my_tid();
    switch (w->number % 4) {
    case 0:
        if (nanosleep(&span, NULL) != 0) return "nanosleep";
        break;
    case 1:
        if (poll(&none, 1, 300) != 0) return "poll";
        break;
    case 2:
        if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &span, NULL, 0) != -1 || errno != ETIMEDOUT) return "futex";
        break;
    case 3:
        if (clock_nanosleep(CLOCK_MONOTONIC, 0, &span, NULL) != 0) return "clock_nanosleep";
        break;
    }
    if (now_ns(CLOCK_MONOTONIC) - begin < 300000000) return "too early";
    return NULL;
}
TEST(many_time_limits_pass) {
    handled = 0;
    handle_signal(SIGUSR1, count, SA_RESTART);
    for (int i = 0; i < MANY; i++) {
        waiters[i].number = i;
        start(&waiters[i].thread, time_out, &waiters[i]);
    }
    join_waiters(MANY);
}

static void *sleep_interrupted(void *arg) {
    struct waiter *w = arg;
    struct timespec span = {1000, 0}, left = {0, 0};
    w->tid = my_tid();
    if (nanosleep(&span, &left) != -1 || errno != EINTR) return "nanosleep";
    if (left.tv_sec < 900 || left.tv_sec > 1000) return "the time that is left";
    return NULL;
}
TEST(many_interrupted_sleeps_tell_the_time_that_is_left) {
    handled = 0;
    handle_signal(SIGUSR1, count, SA_RESTART);
    start_waiters(MANY, sleep_interrupted);
    signal_waiters(MANY, SIGUSR1);
    join_waiters(MANY);
    CHECK_EQ(handled, MANY);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int generation, arrived;
static void *wait_for_generations(void *arg) {
    struct waiter *w = arg;
    w->tid = my_tid();
    pthread_mutex_lock(&mutex);
    for (int g = 1; g < 6; g++) {
        arrived++;
        pthread_cond_broadcast(&condition);
        while (generation < g) pthread_cond_wait(&condition, &mutex);
    }
    pthread_mutex_unlock(&mutex);
    return NULL;
}
TEST(a_broadcast_wakes_all_of_many) {
    for (int i = 0; i < MANY; i++) start(&waiters[i].thread, wait_for_generations, &waiters[i]);
    pthread_mutex_lock(&mutex);
    for (int g = 1; g < 6; g++) {
        while (arrived < g * MANY) pthread_cond_wait(&condition, &mutex);
        generation = g;
        pthread_cond_broadcast(&condition);
    }
    pthread_mutex_unlock(&mutex);
    join_waiters(MANY);
}

static int never;
/* A futex wait made by hand, with something in every register; `site` is where. */
static void *keep_registers(void *arg) {
    struct waiter *w = arg;
    long n = w->number * 1000, result = SYS_futex, a = (long)&never, b = FUTEX_WAIT_PRIVATE, c = 0;
    double vector[2] = {n + 0.5, n + 0.25}, after[2];
    w->tid = my_tid();
    register long d __asm__("r10") = 0, e __asm__("r8") = n + 1, f __asm__("r9") = n + 2, rbx __asm__("rbx") = n + 3;
    register long r12 __asm__("r12") = n + 4, r13 __asm__("r13") = n + 5, r14 __asm__("r14") = n + 6, r15 __asm__("r15") = n + 7;
    __asm__ volatile("movupd %12, %%xmm9\n syscall\n movupd %%xmm9, %11"
                     : "+a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "=m"(after)
                     : "m"(vector), "r"(r15)
                     : "rcx", "r11", "xmm9", "memory");
    if (result != 0 && result != -EINTR) return "the result";
    if (a != (long)&never || b != FUTEX_WAIT_PRIVATE || c != 0 || d != 0 || e != n + 1 || f != n + 2) return "an argument";
    if (rbx != n + 3 || r12 != n + 4 || r13 != n + 5 || r14 != n + 6) return "a register";
    if (after[0] != vector[0] || after[1] != vector[1]) return "a vector register";
    return NULL;
}
TEST(a_wait_changes_no_register_but_the_results) {
    handled = 0;
    handle_signal(SIGUSR1, count, 0);
    start_waiters(MANY, keep_registers);
    signal_waiters(MANY / 2, SIGUSR1);
    handler_ran(MANY / 2);
    for (int woken = 0; woken < MANY - MANY / 2;) {
        long n = syscall(SYS_futex, &never, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        CHECK(n >= 0);
        if (!n) usleep(500);
        woken += n;
    }
    join_waiters(MANY);
}

static void *wait_for_ever(void *arg) {
    struct waiter *w = arg;
    w->tid = my_tid();
    for (;;) syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return NULL;
}
TEST(a_process_of_a_crowd_of_waiters_exits) {
    pid_t pid = CHILD({
        start_waiters(CROWD, wait_for_ever);
        _exit(7);
    });
    CHECK_EXIT(pid, 7);
}

TEST(a_process_of_a_crowd_of_waiters_is_killed) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        start_waiters(CROWD, wait_for_ever);
        CHECK(write(p[1], "x", 1) == 1);
        pause();
    });
    CHECK(read(p[0], &c, 1) == 1);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(many_waiters_stop_and_go_on) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        open_pipes(MANY);
        start_waiters(MANY, answer_bytes);
        CHECK(write(p[1], "x", 1) == 1);
        usleep(1000);
        ask_all(MANY);
    });
    CHECK(read(p[0], &c, 1) == 1);
    int status;
    for (int i = 0; i < 3; i++) {
        CHECK(kill(pid, SIGSTOP) == 0);
        CHECK(waitpid(pid, &status, WUNTRACED) == pid);
        if (WIFEXITED(status)) {
            CHECK_EQ(WEXITSTATUS(status), 0);
            return;
        }
        CHECK(WIFSTOPPED(status));
        CHECK(kill(pid, SIGCONT) == 0);
    }
    CHECK_EXIT(pid, 0);
}

TEST(a_thread_forks_while_many_wait) {
    open_pipes(MANY);
    start_waiters(MANY, answer_bytes);
    for (int round = 0; round < 5; round++) {
        pid_t pid = CHILD({
            int p[2];
            char c;
            CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1 && read(p[0], &c, 1) == 1 && c == 'x');
            CHECK_EXIT(CHILD(_exit(3)), 3);
        });
        for (int i = 0; i < MANY; i++) ask(i, i % 50 + 1);
        CHECK_EXIT(pid, 0);
        for (int i = 0; i < MANY; i++) expect(i, i % 50 + 2);
    }
    for (int i = 0; i < MANY; i++) ask(i, 0);
    join_waiters(MANY);
}

TEST(a_thread_replaces_a_program_of_which_many_threads_wait) {
    pid_t pid = CHILD({
        start_waiters(MANY, wait_for_ever);
        int null = open("/dev/null", O_WRONLY);
        CHECK(dup2(null, 1) == 1);
        execl("/proc/self/exe", "many_waiting", "--list", NULL);
        CHECK(!"exec");
    });
    CHECK_EXIT(pid, 0);
}

TEST(many_waiters_are_cancelled_one_by_one) {
    start_waiters(MANY, pause_once);
    for (int i = 0; i < MANY; i++) {
        void *result;
        CHECK(pthread_cancel(waiters[i].thread) == 0);
        CHECK(pthread_join(waiters[i].thread, &result) == 0);
        CHECK(result == PTHREAD_CANCELED);
    }
}
