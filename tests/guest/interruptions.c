/*
 * Signals, stops and exits that arrive while a thread goes in and out of the kernel as fast as it can. A kernel that
 * misses one of them once in a thousand times leaves a thread in its loop for ever, and the test's time runs out.
 */
#include "check.h"
#include <linux/futex.h>
#include <stdatomic.h>

#define ROUNDS 1000
/* Enough rounds were made when so much time is over: on a busy machine each may take some milliseconds. */
#define SECONDS 3

static atomic_int handled, round_no, done;
static void handle(int sig) {
    (void)sig;
    atomic_fetch_add(&handled, 1);
}

static bool more(int rounds, long long start) {
    return rounds < ROUNDS && (rounds < 20 || now_ns(CLOCK_MONOTONIC) - start < SECONDS * 1000000000LL);
}

/* Makes a few calls, says so, and computes until its signal has been handled. */
static void *call_and_compute(void *arg) {
    *(atomic_int *)arg = my_tid();
    for (int round = 1; !atomic_load(&done); round++) {
        for (int i = 0; i < round % 5; i++) syscall(SYS_getppid);
        atomic_store(&round_no, round);
        syscall(SYS_getppid);
        while (atomic_load(&handled) < round && !atomic_load(&done)) {}
    }
    return NULL;
}

TEST(a_signal_reaches_a_thread_that_has_just_made_a_call) {
    handle_signal(SIGUSR1, handle, SA_RESTART);
    atomic_int tid = 0;
    pthread_t t;
    CHECK(pthread_create(&t, NULL, call_and_compute, &tid) == 0);
    long long start = now_ns(CLOCK_MONOTONIC);
    int round = 1;
    for (; more(round, start); round++) {
        while (atomic_load(&round_no) != round) sched_yield();
        CHECK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1) == 0);
        while (atomic_load(&handled) != round) sched_yield();
    }
    atomic_store(&done, 1);
    CHECK(pthread_join(t, NULL) == 0);
    CHECK_EQ(handled, round - 1);
}

/* Has the signal blocked but while it waits for it. */
static void *suspend(void *arg) {
    sigset_t block = signal_set(SIGUSR1, 0), none;
    sigemptyset(&none);
    pthread_sigmask(SIG_BLOCK, &block, NULL);
    *(atomic_int *)arg = my_tid();
    for (int round = 1; !atomic_load(&done); round++) {
        atomic_store(&round_no, round);
        if (round % 2) {
            CHECK_ERR(sigsuspend(&none), EINTR);
        } else {
            CHECK_ERR(ppoll(NULL, 0, NULL, &none), EINTR);
        }
        CHECK_EQ(atomic_load(&handled), round);
    }
    return NULL;
}

TEST(a_blocked_signal_ends_a_wait_that_unblocks_it) {
    handle_signal(SIGUSR1, handle, SA_RESTART);
    atomic_int tid = 0;
    pthread_t t;
    CHECK(pthread_create(&t, NULL, suspend, &tid) == 0);
    long long start = now_ns(CLOCK_MONOTONIC);
    int round = 1;
    for (; more(round, start); round++) {
        while (atomic_load(&round_no) != round) sched_yield();
        CHECK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1) == 0);
        while (atomic_load(&handled) != round) sched_yield();
    }
    while (atomic_load(&round_no) != round) sched_yield();
    atomic_store(&done, 1);
    CHECK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1) == 0);
    CHECK(pthread_join(t, NULL) == 0);
}

/* Unblocks and blocks its signal again and again. */
static void *toggle(void *arg) {
    (void)arg;
    sigset_t set = signal_set(SIGRTMIN, 0);
    while (!atomic_load(&done)) {
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    return NULL;
}
static void *make_calls(void *arg) {
    (void)arg;
    while (!atomic_load(&done)) syscall(SYS_getppid);
    return NULL;
}

TEST(no_queued_signal_of_a_process_is_lost_among_its_threads) {
    handle_signal(SIGRTMIN, handle, SA_RESTART);
    sigset_t set = signal_set(SIGRTMIN, 0);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&t[i], NULL, i % 2 ? toggle : make_calls, NULL) == 0);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    long long start = now_ns(CLOCK_MONOTONIC);
    int sent = 0;
    for (; more(sent, start); sent++) {
        while (sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = sent}) != 0) CHECK_EQ(errno, EAGAIN);
    }
    while (atomic_load(&handled) != sent) sched_yield();
    atomic_store(&done, 1);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(t[i], NULL) == 0);
    CHECK_EQ(handled, sent);
}

/* Blocks what it may have been chosen for, and ends without ever taking it. */
static void *block_and_end(void *arg) {
    sigset_t set = signal_set(SIGUSR1, 0);
    for (int i = 0; i < 50; i++) {
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    if (arg) pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return NULL;
}
static void *sleep_at_futex(void *arg) {
    for (;;) syscall(SYS_futex, arg, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
    return NULL;
}
static void *wait_for_end(void *arg) {
    sigset_t set = signal_set(SIGUSR1, 0);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return sleep_at_futex(arg);
}

TEST(a_signal_that_one_thread_does_not_take_reaches_another_that_sleeps) {
    static atomic_int word;
    sigset_t set = signal_set(SIGUSR1, 0);
    long long start = now_ns(CLOCK_MONOTONIC);
    for (int round = 0; more(round * 5, start); round++) {
        int ready[2];
        CHECK(pipe(ready) == 0);
        pid_t pid = CHILD({
            pthread_sigmask(SIG_BLOCK, &set, NULL);
            pthread_t sleeper;
            CHECK(pthread_create(&sleeper, NULL, wait_for_end, &word) == 0);
            CHECK(write(ready[1], "r", 1) == 1);
            for (int i = 0;; i++) {
                pthread_t t;
                CHECK(pthread_create(&t, NULL, block_and_end, i % 2 ? &word : NULL) == 0);
                pthread_join(t, NULL);
                if (i == 3) pthread_join(sleeper, NULL);
            }
        });
        char byte;
        CHECK(read(ready[0], &byte, 1) == 1);
        for (int i = 0; i < round % 50; i++) sched_yield();
        CHECK(kill(pid, SIGUSR1) == 0);
        CHECK_KILLED(pid, SIGUSR1);
        close(ready[0]), close(ready[1]);
    }
}

/* Sends the process both signals in one go, whenever it is told to. */
static void *send_both(void *arg) {
    sigset_t set = signal_set(SIGUSR1, SIGUSR2, 0);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    for (int round = 1;; round++) {
        while (atomic_load((atomic_int *)arg) < round) sched_yield();
        if (atomic_load(&done)) return NULL;
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK(kill(getpid(), SIGUSR2) == 0);
    }
}
static atomic_int second_handled;
/* The second signal is blocked meanwhile, and only comes if another thread takes it. */
static void wait_for_second(int sig) {
    int before = atomic_fetch_add(&handled, 1);
    (void)sig;
    while (atomic_load(&second_handled) == before) {}
}
static void handle_second(int sig) {
    (void)sig;
    atomic_fetch_add(&second_handled, 1);
}
static void *take_second(void *arg) {
    sigset_t set = signal_set(SIGUSR1, 0);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return sleep_at_futex(arg);
}

TEST(a_signal_that_a_handler_blocks_reaches_another_thread_that_sleeps) {
    static atomic_int word, turn;
    struct sigaction action = {.sa_handler = wait_for_second, .sa_mask = signal_set(SIGUSR2, 0), .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    handle_signal(SIGUSR2, handle_second, SA_RESTART);
    pthread_t sender, taker;
    CHECK(pthread_create(&taker, NULL, take_second, &word) == 0);
    CHECK(pthread_create(&sender, NULL, send_both, &turn) == 0);
    long long start = now_ns(CLOCK_MONOTONIC);
    for (int round = 1; more(round * 2, start); round++) {
        atomic_store(&turn, round);
        while (atomic_load(&handled) != round || atomic_load(&second_handled) != round) {}
    }
    atomic_store(&done, 1);
    atomic_fetch_add(&turn, 1);
    CHECK(pthread_join(sender, NULL) == 0);
}

TEST(a_process_stops_and_goes_on_however_busy_it_is) {
    atomic_long *calls = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(calls != MAP_FAILED);
    pid_t pid = CHILD({
        for (;;) {
            syscall(SYS_getppid);
            atomic_fetch_add(calls, 1);
        }
    });
    long long start = now_ns(CLOCK_MONOTONIC);
    for (int round = 0; more(round * 4, start); round++) {
        long before = atomic_load(calls);
        while (atomic_load(calls) == before) sched_yield();
        int status;
        CHECK(kill(pid, SIGSTOP) == 0);
        CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        /* It has stopped when that is told, and does nothing until it is continued. */
        wait_blocked(pid);
        before = atomic_load(calls);
        for (int i = 0; i < 10; i++) sched_yield();
        CHECK(atomic_load(calls) - before <= 1);
        CHECK(kill(pid, SIGCONT) == 0);
        CHECK(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    }
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_KILLED(pid, SIGKILL);
}

static int pipe_ends[2];
static void *ping(void *arg) {
    (void)arg;
    char byte = 1;
    for (;;) {
        CHECK(write(pipe_ends[1], &byte, 1) == 1);
        CHECK(read(pipe_ends[0], &byte, 1) == 1);
    }
}
static void *compute(void *arg) {
    for (;;) atomic_fetch_add((atomic_int *)arg, 1);
    return NULL;
}
static void *call_for_ever(void *arg) {
    (void)arg;
    for (;;) syscall(SYS_getppid);
    return NULL;
}

/* A process of busy threads, which ends by `exit_group` of one of them or waits to be killed. */
static void busy_process(bool exits) {
    static atomic_int word, number;
    CHECK(pipe(pipe_ends) == 0);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, ping, NULL) == 0);
    CHECK(pthread_create(&t, NULL, compute, &number) == 0);
    CHECK(pthread_create(&t, NULL, sleep_at_futex, &word) == 0);
    CHECK(pthread_create(&t, NULL, call_for_ever, NULL) == 0);
    if (exits) _exit(7);
    CHECK(write(3, "r", 1) == 1);
    call_for_ever(NULL);
}

TEST(a_process_of_busy_threads_ends_at_once) {
    long long start = now_ns(CLOCK_MONOTONIC);
    for (int round = 0; more(round * 10, start); round++) {
        int ready[2];
        CHECK(pipe(ready) == 0);
        bool exits = round % 2;
        pid_t pid = CHILD({
            CHECK(dup2(ready[1], 3) == 3);
            busy_process(exits);
        });
        if (exits) {
            CHECK_EXIT(pid, 7);
        } else {
            char byte;
            CHECK(read(ready[0], &byte, 1) == 1);
            CHECK(kill(pid, SIGKILL) == 0);
            CHECK_KILLED(pid, SIGKILL);
        }
        close(ready[0]), close(ready[1]);
    }
}
