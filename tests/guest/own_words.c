// Calls that change nothing but a word of the calling thread's (its signal mask, its list of robust futexes), made so often
// that a sandbox may have the thread change the word itself: nobody may be able to tell, whatever comes in between.
#include "check.h"

#include <linux/futex.h>
#include <stdatomic.h>

enum { HOT = 200, PAGE = 4096, WORD = 8 };

static unsigned long bit(int signal) { return 1UL << (signal - 1); }

static long set_mask(int how, const unsigned long *set, unsigned long *old) {
    return syscall(SYS_rt_sigprocmask, how, set, old, WORD);
}

static unsigned long mask_now(void) {
    unsigned long old = ~0UL;
    CHECK(set_mask(SIG_BLOCK, NULL, &old) == 0);
    return old;
}

static unsigned long block(unsigned long set) {
    unsigned long old;
    CHECK(set_mask(SIG_BLOCK, &set, &old) == 0);
    return old;
}

static unsigned long unblock(unsigned long set) {
    unsigned long old;
    CHECK(set_mask(SIG_UNBLOCK, &set, &old) == 0);
    return old;
}

static void make_hot(void) {
    for (int i = 0; i < HOT; i++) {
        unsigned long old = block(bit(SIGWINCH));
        CHECK_EQ(mask_now(), old | bit(SIGWINCH));
        unblock(bit(SIGWINCH));
    }
}

static unsigned long robust_list_of(pid_t tid) {
    unsigned long head = 1, length = 0;
    CHECK(syscall(SYS_get_robust_list, tid, &head, &length) == 0);
    CHECK_EQ(length, 24);
    return head;
}

static atomic_int stage;
static atomic_int other_tid;

static void *show_list(void *head) {
    for (int i = 0; i < HOT; i++) CHECK(syscall(SYS_set_robust_list, head, 24UL) == 0);
    other_tid = my_tid();
    stage = 1;
    while (stage != 2) sched_yield();
    return NULL;
}

TEST(the_list_of_robust_futexes_is_what_was_set_last) {
    unsigned long list[3] = {0}, usual = robust_list_of(0);
    for (unsigned long i = 0; i < HOT; i++) {
        CHECK(syscall(SYS_set_robust_list, list + i % 2, 24UL) == 0);
        CHECK_EQ(robust_list_of(0), list + i % 2);
    }
    CHECK_ERR(syscall(SYS_set_robust_list, list, 23UL), EINVAL);
    CHECK_EQ(robust_list_of(0), list + (HOT - 1) % 2);
    // A child begins with none, whatever its parent has.
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    CHECK(pid >= 0);
    if (pid == 0) _exit(robust_list_of(0) == 0 ? 0 : 1);
    CHECK_EXIT(pid, 0);
    pthread_t thread;
    unsigned long other[3] = {0, 0, 0};
    CHECK(syscall(SYS_set_robust_list, usual, 24UL) == 0);
    CHECK(pthread_create(&thread, NULL, show_list, other) == 0);
    while (stage != 1) sched_yield();
    CHECK_EQ(robust_list_of(other_tid), other);
    CHECK_EQ(robust_list_of(0), usual);
    other[0] = (unsigned long)other;
    stage = 2;
    CHECK(pthread_join(thread, NULL) == 0);
}

static void *lock_and_leave(void *mutex) {
    CHECK(pthread_mutex_lock(mutex) == 0);
    return NULL;
}

TEST(whoever_ends_with_a_robust_lock_passes_it_on) {
    pthread_mutexattr_t robust;
    CHECK(pthread_mutexattr_init(&robust) == 0);
    CHECK(pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST) == 0);
    for (int i = 0; i < 60; i++) {
        pthread_mutex_t mutex;
        pthread_t thread;
        CHECK(pthread_mutex_init(&mutex, &robust) == 0);
        CHECK(pthread_create(&thread, NULL, lock_and_leave, &mutex) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
        CHECK(pthread_mutex_consistent(&mutex) == 0);
        CHECK(pthread_mutex_unlock(&mutex) == 0);
    }
}

TEST(a_call_that_is_refused_is_refused_again) {
    long first = syscall(SYS_rseq, NULL, 0, 0, 0), error = errno;
    CHECK_EQ(first, -1);
    for (int i = 0; i < HOT; i++) CHECK_ERR(syscall(SYS_rseq, NULL, 0, 0, 0), error);
}

TEST(a_mask_is_what_was_set_last) {
    unsigned long start = mask_now(), some = bit(SIGUSR1) | bit(SIGRTMAX), more = bit(SIGHUP);
    for (int i = 0; i < HOT; i++) {
        CHECK_EQ(block(some), start);
        CHECK_EQ(block(more), start | some);
        CHECK_EQ(unblock(more), start | some | more);
        unsigned long all = ~0UL, old;
        CHECK(set_mask(SIG_SETMASK, &all, &old) == 0);
        CHECK_EQ(old, start | some);
        CHECK_EQ(mask_now(), ~(bit(SIGKILL) | bit(SIGSTOP)));
        // The same place for both.
        unsigned long both = start;
        CHECK(set_mask(SIG_SETMASK, &both, &both) == 0);
        CHECK_EQ(both, ~(bit(SIGKILL) | bit(SIGSTOP)));
        CHECK_EQ(mask_now(), start);
        CHECK(set_mask(SIG_SETMASK, &start, NULL) == 0);
    }
}

TEST(a_mask_that_is_set_wrongly_stays_and_one_that_cannot_be_told_is_set) {
    make_hot();
    unsigned long start = mask_now(), some = bit(SIGUSR2), old = 5;
    char *closed = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(munmap(closed + PAGE, PAGE) == 0);
    for (int i = 0; i < 40; i++) {
        // Each from the place that is hot.
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &some, &old, 4UL), EINVAL);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, 3, &some, &old, 8UL), EINVAL);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, -1, &some, &old, 8UL), EINVAL);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8UL, &old, 8UL), EFAULT);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, closed + PAGE, &old, 8UL), EFAULT);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, closed + PAGE - 4, &old, 8UL), EFAULT);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0x7ffffffff000UL - 4, &old, 8UL), EFAULT);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, -8UL, &old, 8UL), EFAULT);
        CHECK_EQ(old, 5);
        CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &old, 8UL) == 0);
        CHECK_EQ(old, start);
        old = 5;
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &some, closed, 8UL), EFAULT);
        CHECK_EQ(mask_now(), start | some);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &some, -8UL, 8UL), EFAULT);
        CHECK_EQ(mask_now(), start);
        CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, closed + PAGE - 4, 8UL), EFAULT);
        // A `how` without a set means nothing; of one with a set 32 bits count.
        CHECK(syscall(SYS_rt_sigprocmask, 77, NULL, NULL, 8UL) == 0);
        CHECK(syscall(SYS_rt_sigprocmask, 1UL << 32 | SIG_BLOCK, &some, NULL, 8UL) == 0);
        CHECK_EQ(unblock(some), start | some);
    }
}

TEST(calls_that_set_the_mask_keep_the_registers) {
    unsigned long some = bit(SIGUSR1), old;
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    handle_signal(SIGALRM, SIG_IGN, 0);
    block(bit(SIGALRM));
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (long i = 0; i < 20000; i++) {
        register long r12 __asm__("r12") = i, rbx __asm__("rbx") = ~i;
        long result, a = i % 3, b = (long)&some, c = (long)&old;
        register long d __asm__("r10") = 8;
        register long e __asm__("r8") = 5 + i;
        register long f __asm__("r9") = 6 + i;
        __asm__ volatile("mov $14, %%eax\n syscall"
                         : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(r12), "+r"(rbx)
                         :
                         : "rcx", "r11", "memory");
        CHECK_EQ(result, 0);
        CHECK(a == i % 3 && b == (long)&some && c == (long)&old && d == 8 && e == 5 + i && f == 6 + i);
        CHECK(r12 == i && rbx == ~i);
        if (i % 3 == 1) CHECK(old & bit(SIGUSR1));
        // What is pending now and then makes these calls go another way.
        if (i % 3 == 2 && i % 2) unblock(bit(SIGALRM));
        if (i % 3 == 2 && !(i % 2)) block(bit(SIGALRM));
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

// What a handler finds, in the thread that runs it.
static _Thread_local volatile int closed; // the signals are blocked, as far as the thread knows
static atomic_long taken, wrong;
static void take(int signal) {
    (void)signal;
    taken++;
    if (closed) wrong++;
}

TEST(what_is_pending_comes_before_the_unblocking_call_returns) {
    handle_signal(SIGUSR1, take, 0);
    handle_signal(SIGUSR2, take, 0);
    make_hot();
    unsigned long some = bit(SIGUSR1) | bit(SIGUSR2);
    for (long i = 0; i < 3000; i++) {
        block(some);
        closed = 1;
        // To the thread, to the process, or none.
        if (i % 3 == 0) CHECK(syscall(SYS_tgkill, getpid(), my_tid(), SIGUSR1) == 0);
        if (i % 3 == 1) CHECK(kill(getpid(), SIGUSR2) == 0);
        long before = taken;
        closed = 0;
        unblock(some);
        CHECK_EQ(taken, before + (i % 3 != 2));
    }
    CHECK_EQ(wrong, 0);
    CHECK_EQ(taken, 2000);
}

enum { MANY = 4000 };
static atomic_long sent;

// Sends numbered signals that queue, each of which has to be taken; MANY together.
static void send_many(pid_t pid, pid_t tid) {
    for (long i = 0; i < MANY; i++) {
        siginfo_t info = {.si_code = SI_QUEUE, .si_pid = getpid()};
        long result;
        do {
            result = tid ? syscall(SYS_rt_tgsigqueueinfo, pid, tid, SIGRTMIN + 1, &info)
                         : syscall(SYS_rt_sigqueueinfo, pid, SIGRTMIN + 1, &info);
        } while (result < 0 && errno == EAGAIN && sched_yield() == 0);
        CHECK(result == 0);
        sent++;
    }
}

static void toggle_until_all_have_come(long all) {
    unsigned long some = bit(SIGRTMIN + 1);
    while (taken < all) {
        block(some);
        closed = 1;
        for (volatile int i = 0; i < 50; i++) {}
        closed = 0;
        unblock(some);
    }
    block(some);
}

static pid_t target;
static void *send_to_thread(void *arg) {
    (void)arg;
    block(bit(SIGRTMIN + 1));
    send_many(getpid(), target);
    return NULL;
}

TEST(no_signal_of_another_thread_is_lost_or_comes_while_it_is_blocked) {
    handle_signal(SIGRTMIN + 1, take, 0);
    make_hot();
    target = my_tid();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, send_to_thread, NULL) == 0);
    // Whatever had been sent when the thread began to unblock is there when it has.
    unsigned long some = bit(SIGRTMIN + 1);
    while (taken < MANY) {
        block(some);
        closed = 1;
        long there = sent;
        closed = 0;
        unblock(some);
        CHECK(taken >= there);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_EQ(taken, MANY);
    CHECK_EQ(wrong, 0);
}

static void *toggle_too(void *arg) {
    toggle_until_all_have_come((long)arg);
    return NULL;
}

// Sent to the process: whoever lets them in takes them, and hands them on if it does not any more.
static void process_takes_many(int threads) {
    handle_signal(SIGRTMIN + 1, take, 0);
    make_hot();
    block(bit(SIGRTMIN + 1));
    pthread_t others[3];
    for (long i = 0; i < threads; i++) CHECK(pthread_create(&others[i], NULL, toggle_too, (void *)(long)MANY) == 0);
    pid_t process = getpid(), pid = CHILD(send_many(process, 0));
    toggle_until_all_have_come(MANY);
    for (int i = 0; i < threads; i++) CHECK(pthread_join(others[i], NULL) == 0);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(taken, MANY);
    CHECK_EQ(wrong, 0);
}

TEST(no_signal_of_another_process_is_lost_or_comes_while_it_is_blocked) { process_takes_many(0); }

TEST(threads_that_block_and_unblock_share_a_processs_signals) { process_takes_many(2); }

// One thread unblocks once and waits; nobody is left to send: what it was chosen for must come by itself.
static void *wait_for_all(void *arg) {
    long all = (long)arg;
    unblock(bit(SIGRTMIN + 1));
    while (taken < all) {
        struct timespec nap = {0, 1000000};
        nanosleep(&nap, NULL);
    }
    return NULL;
}

TEST(what_one_thread_blocks_goes_to_another) {
    handle_signal(SIGRTMIN + 1, take, 0);
    make_hot();
    block(bit(SIGRTMIN + 1));
    unsigned long some = bit(SIGRTMIN + 1);
    pthread_t other;
    long all = 600;
    CHECK(pthread_create(&other, NULL, wait_for_all, (void *)all) == 0);
    pid_t process = getpid(), pid = CHILD({
        for (int i = 0; i < 600; i++) {
            union sigval value = {i};
            while (sigqueue(process, SIGRTMIN + 1, value) != 0) sched_yield();
            if (i % 8 == 0) usleep(100);
        }
    });
    for (int i = 0; i < 20000 || taken < all; i++) {
        unblock(some);
        closed = 1;
        closed = 0;
        block(some);
    }
    CHECK(pthread_join(other, NULL) == 0);
    CHECK_EXIT(pid, 0);
    CHECK_EQ(taken, all);
}

TEST(timers_come_between_and_never_inside) {
    handle_signal(SIGALRM, take, 0);
    make_hot();
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    unsigned long some = bit(SIGALRM);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    long waits = 0;
    for (long i = 0; i < 20000 || taken < 50; i++) {
        block(some);
        closed = 1;
        unsigned long pending = 0;
        if (i % 16 == 0) CHECK(syscall(SYS_rt_sigpending, &pending, 8UL) == 0);
        long before = taken;
        closed = 0;
        unblock(some);
        if (pending & some) {
            waits++;
            CHECK(taken > before);
        }
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK_EQ(wrong, 0);
}

static unsigned long shown_mask(const char *path) {
    read_file(path);
    char *line = strstr(file_text, "SigBlk:");
    CHECK(line != NULL);
    return strtoul(line + 7, NULL, 16);
}

static void *block_and_show(void *arg) {
    (void)arg;
    make_hot();
    block(bit(SIGUSR2));
    other_tid = my_tid();
    stage = 1;
    while (stage != 2) sched_yield();
    unblock(bit(SIGUSR2));
    stage = 3;
    while (stage != 4) sched_yield();
    return NULL;
}

TEST(others_see_the_mask_and_children_inherit_it) {
    make_hot();
    unsigned long start = mask_now();
    for (int i = 0; i < 20; i++) {
        block(bit(SIGUSR1));
        CHECK_EQ(shown_mask("/proc/self/status"), start | bit(SIGUSR1));
        CHECK_EXIT(CHILD(CHECK_EQ(mask_now(), start | bit(SIGUSR1))), 0);
        pid_t pid = vfork();
        if (pid == 0) execlp("grep", "grep", "-qE", "^SigBlk:.*2[0-9a-f]{2}$", "/proc/self/status", NULL), _exit(126);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        // Where there is no such program nothing is said.
        if (WEXITSTATUS(status) != 126) CHECK_EQ(WEXITSTATUS(status), 0);
        unblock(bit(SIGUSR1));
        CHECK_EQ(shown_mask("/proc/self/status"), start);
    }
    block(bit(SIGUSR1));
    pthread_t thread;
    char path[64];
    CHECK(pthread_create(&thread, NULL, block_and_show, NULL) == 0);
    while (stage != 1) sched_yield();
    snprintf(path, sizeof path, "/proc/self/task/%d/status", other_tid);
    CHECK_EQ(shown_mask(path), start | bit(SIGUSR1) | bit(SIGUSR2));
    stage = 2;
    while (stage != 3) sched_yield();
    CHECK_EQ(shown_mask(path), start | bit(SIGUSR1));
    CHECK_EQ(shown_mask("/proc/self/status"), start | bit(SIGUSR1));
    stage = 4;
    CHECK(pthread_join(thread, NULL) == 0);
}

static volatile unsigned long mask_in_handler;
static void look_at_mask(int signal) {
    take(signal);
    mask_in_handler = mask_now();
    // It is put back when the handler returns.
    block(bit(SIGTERM));
    unblock(bit(SIGHUP));
}

TEST(handlers_have_their_mask_and_give_back_the_one_before) {
    make_hot();
    struct sigaction action = {.sa_handler = look_at_mask};
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    unsigned long start = block(bit(SIGHUP)) | bit(SIGHUP), some = bit(SIGUSR1);
    for (long i = 0; i < 500; i++) {
        block(some);
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK_EQ(taken, i);
        unblock(some);
        CHECK_EQ(taken, i + 1);
        CHECK_EQ(mask_in_handler, start | bit(SIGUSR1) | bit(SIGUSR2));
        CHECK_EQ(mask_now(), start);
    }
}

TEST(a_mask_for_the_length_of_a_call_ends_with_it) {
    make_hot();
    handle_signal(SIGUSR1, take, 0);
    block(bit(SIGUSR1));
    unsigned long start = mask_now(), none = 0;
    struct timespec at_once = {0, 0};
    for (long i = 0; i < 500; i++) {
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK_ERR(syscall(SYS_rt_sigsuspend, &none, 8UL), EINTR);
        CHECK_EQ(mask_now(), start);
        CHECK_EQ(taken, 2 * i + 1);
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK_ERR(syscall(SYS_ppoll, NULL, 0, NULL, &none, 8UL), EINTR);
        CHECK_EQ(mask_now(), start);
        CHECK_EQ(taken, 2 * i + 2);
        CHECK(syscall(SYS_ppoll, NULL, 0, &at_once, &none, 8UL) == 0);
        CHECK_EQ(mask_now(), start);
        block(bit(SIGUSR2));
        unblock(bit(SIGUSR2));
    }
    // Waiting for it is taking it.
    for (long i = 0; i < 200; i++) {
        unsigned long some = bit(SIGUSR1);
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK_EQ(syscall(SYS_rt_sigtimedwait, &some, NULL, &at_once, 8UL), SIGUSR1);
        unblock(some);
        block(some);
    }
    CHECK_EQ(taken, 1000);
}

TEST(a_blocked_stop_or_kill_is_neither) {
    pid_t pid = CHILD({
        make_hot();
        for (unsigned long all = ~0UL;;) CHECK(set_mask(SIG_SETMASK, &all, NULL) == 0);
    });
    int status;
    usleep(50000);
    for (int i = 0; i < 5; i++) {
        CHECK(kill(pid, SIGSTOP) == 0);
        CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        CHECK(kill(pid, SIGCONT) == 0);
        CHECK(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    }
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_KILLED(pid, SIGKILL);
}
