/* futex(2): wait and wake, time-outs, bitsets, requeue, sharing, robust lists, priority inheritance. */
#include "check.h"
#include <linux/futex.h>

static long futex(volatile void *word, int op, uint32_t val, const void *timeout, volatile void *word2, uint32_t val3) {
    return syscall(SYS_futex, word, op, val, timeout, word2, val3);
}
static volatile uint32_t *shared_words(void) {
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

TEST(a_changed_value_is_eagain) {
    volatile uint32_t word = 1;
    CHECK_ERR(futex(&word, FUTEX_WAIT, 2, NULL, NULL, 0), EAGAIN);
    CHECK_ERR(futex(&word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0), EAGAIN);
    CHECK_EQ(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
}

TEST(bad_arguments) {
    volatile uint32_t word[2] = {0};
    CHECK_ERR(futex((char *)word + 1, FUTEX_WAIT, 0, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex((void *)4096, FUTEX_WAIT, 0, NULL, NULL, 0), EFAULT);
    CHECK_ERR(futex(word, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex(word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex(word, 99, 0, NULL, NULL, 0), ENOSYS);
    struct timespec bad = {0, 1000000000};
    CHECK_ERR(futex(word, FUTEX_WAIT, 0, &bad, NULL, 0), EINVAL);
}

TEST(timeouts_relative_and_absolute) {
    volatile uint32_t word = 0;
    struct timespec ts = {0, 20000000};
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(futex(&word, FUTEX_WAIT, 0, &ts, NULL, 0), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    clock_gettime(CLOCK_MONOTONIC, &ts);
    start = ts.tv_sec * 1000000000LL + ts.tv_nsec;
    ts.tv_sec += (ts.tv_nsec + 20000000) / 1000000000;
    ts.tv_nsec = (ts.tv_nsec + 20000000) % 1000000000;
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET, 0, &ts, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    ts = (struct timespec){1, 0}; /* past */
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &ts, NULL, ~0U), ETIMEDOUT);
}

TEST(wake_wakes_as_many_as_asked_across_processes) {
    volatile uint32_t *w = shared_words();
    pid_t pid[5];
    for (int i = 0; i < 5; i++)
        pid[i] = CHILD({
            CHECK_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
            __atomic_add_fetch(&w[1], 1, __ATOMIC_SEQ_CST);
            futex(&w[1], FUTEX_WAKE, 1, NULL, NULL, 0);
        });
    for (int i = 0; i < 5; i++) wait_blocked(pid[i]);
    CHECK_EQ(futex(w, FUTEX_WAKE, 2, NULL, NULL, 0), 2);
    uint32_t v;
    while ((v = w[1]) < 2) futex(&w[1], FUTEX_WAIT, v, NULL, NULL, 0);
    CHECK_EQ(futex(w, FUTEX_WAKE, INT_MAX, NULL, NULL, 0), 3);
    for (int i = 0; i < 5; i++) CHECK_EXIT(pid[i], 0);
    CHECK_EQ(w[1], 5);
}

TEST(a_private_futex_is_not_seen_by_another_process) {
    volatile uint32_t *w = shared_words();
    pid_t pid = CHILD({
        struct timespec ts = {5, 0};
        CHECK_EQ(futex(w, FUTEX_WAIT, 0, &ts, NULL, 0), 0);
    });
    wait_blocked(pid);
    CHECK_EQ(futex(w, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 0);
    CHECK_EQ(futex(w, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    CHECK_EXIT(pid, 0);
}

TEST(a_futex_in_a_shared_file_is_the_same_in_two_mappings) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    CHECK(ftruncate(fd, 8192) == 0);
    volatile uint32_t *a = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    volatile uint32_t *b = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    pid_t pid = CHILD(CHECK_EQ(futex(b, FUTEX_WAIT, 0, NULL, NULL, 0), 0));
    wait_blocked(pid);
    CHECK_EQ(futex(a + 1024, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    CHECK_EXIT(pid, 0);
}

TEST(bitsets_choose_whom_to_wake) {
    volatile uint32_t *w = shared_words();
    pid_t one = CHILD(CHECK_EQ(futex(w, FUTEX_WAIT_BITSET, 0, NULL, NULL, 1), 0));
    pid_t two = CHILD(CHECK_EQ(futex(w, FUTEX_WAIT_BITSET, 0, NULL, NULL, 2), 0));
    wait_blocked(one), wait_blocked(two);
    CHECK_EQ(futex(w, FUTEX_WAKE_BITSET, 10, NULL, NULL, 4), 0);
    CHECK_EQ(futex(w, FUTEX_WAKE_BITSET, 10, NULL, NULL, 2), 1);
    CHECK_EXIT(two, 0);
    CHECK_EQ(futex(w, FUTEX_WAKE, 10, NULL, NULL, 0), 1);
    CHECK_EXIT(one, 0);
}

TEST(requeue_moves_waiters) {
    volatile uint32_t *w = shared_words();
    pid_t pid[4];
    for (int i = 0; i < 4; i++) pid[i] = CHILD(CHECK_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0));
    for (int i = 0; i < 4; i++) wait_blocked(pid[i]);
    CHECK_ERR(futex(w, FUTEX_CMP_REQUEUE, 1, (void *)10L, w + 1, 7), EAGAIN);
    CHECK_EQ(futex(w, FUTEX_CMP_REQUEUE, 1, (void *)2L, w + 1, 0), 3); /* one woken, two moved */
    CHECK_EQ(futex(w, FUTEX_WAKE, 10, NULL, NULL, 0), 1);
    CHECK_EQ(futex(w + 1, FUTEX_WAKE, 10, NULL, NULL, 0), 2);
    for (int i = 0; i < 4; i++) CHECK_EXIT(pid[i], 0);
}

TEST(wake_op_changes_and_wakes_both) {
    volatile uint32_t *w = shared_words();
    w[1] = 5;
    pid_t a = CHILD(CHECK_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0));
    pid_t b = CHILD(CHECK_EQ(futex(w + 1, FUTEX_WAIT, 5, NULL, NULL, 0), 0));
    wait_blocked(a), wait_blocked(b);
    CHECK_EQ(futex(w, FUTEX_WAKE_OP, 1, (void *)1L, w + 1, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)), 2);
    CHECK_EQ(w[1], 8);
    CHECK_EXIT(a, 0);
    CHECK_EXIT(b, 0);
}

static void ignore(int sig) { (void)sig; }
TEST(a_signal_interrupts_an_endless_wait_but_restarts_if_asked) {
    volatile uint32_t *w = shared_words();
    handle_signal(SIGUSR1, ignore, 0);
    pid_t me = getpid();
    pid_t pid = CHILD({
        wait_blocked(me);
        kill(me, SIGUSR1);
    });
    CHECK_ERR(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), EINTR);
    CHECK_EXIT(pid, 0);
    handle_signal(SIGUSR1, ignore, SA_RESTART);
    pid = CHILD({
        wait_blocked(me);
        kill(me, SIGUSR1);
        wait_blocked(me);
        while (futex(w, FUTEX_WAKE, 1, NULL, NULL, 0) == 0) sched_yield();
    });
    CHECK_EQ(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
    CHECK_EXIT(pid, 0);
}

static void *die_holding(void *mutex) {
    CHECK_EQ(pthread_mutex_lock(mutex), 0);
    return NULL;
}
TEST(a_robust_mutex_survives_its_dead_owner) {
    static pthread_mutex_t *m;
    m = (void *)shared_words();
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    CHECK_EQ(pthread_mutex_init(m, &attr), 0);
    pthread_t t;
    pthread_create(&t, NULL, die_holding, m);
    pthread_join(t, NULL);
    CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(m), 0);
    CHECK_EQ(pthread_mutex_unlock(m), 0);
    pid_t pid = CHILD({
        CHECK_EQ(pthread_mutex_lock(m), 0);
        raise(SIGKILL);
    });
    CHECK_KILLED(pid, SIGKILL);
    CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(m), 0);
    CHECK_EQ(pthread_mutex_unlock(m), 0);
    /* the owner dies while another waits */
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t owner = CHILD({
        char c;
        close(p[1]);
        CHECK_EQ(pthread_mutex_lock(m), 0);
        read(p[0], &c, 1);
    });
    while (*(volatile int *)m == 0) sched_yield();
    pid_t waiter = CHILD({
        close(p[1]);
        CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
    });
    wait_blocked(waiter);
    close(p[1]);
    CHECK_EXIT(owner, 0);
    CHECK_EXIT(waiter, 0);
}

TEST(robust_list_calls) {
    void *head;
    size_t len;
    CHECK(syscall(SYS_get_robust_list, 0, &head, &len) == 0 && len == 24 && head);
    CHECK_ERR(syscall(SYS_set_robust_list, head, 1), EINVAL);
}

static void *lock_unlock(void *mutex) {
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(pthread_mutex_lock(mutex), 0);
        sched_yield();
        CHECK_EQ(pthread_mutex_unlock(mutex), 0);
    }
    return NULL;
}
TEST(priority_inheriting_mutexes_exclude) {
    pthread_mutex_t m;
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    CHECK_EQ(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT), 0);
    int r = pthread_mutex_init(&m, &attr);
    if (r == ENOTSUP) return; /* the kernel says it has none */
    CHECK_EQ(r, 0);
    pthread_t t[3];
    for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, lock_unlock, &m);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    CHECK_EQ(pthread_mutex_trylock(&m), 0);
    CHECK_EQ(pthread_mutex_trylock(&m), EBUSY);
}

static volatile uint32_t words[2];
static void *ping(void *arg) {
    for (uint32_t i = 0; i < 2000; i++) {
        while (words[0] == i) futex(&words[0], FUTEX_WAIT_PRIVATE, i, NULL, NULL, 0);
        words[1] = i + 1;
        futex(&words[1], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    return arg;
}
TEST(ping_pong_of_two_threads) {
    pthread_t t;
    pthread_create(&t, NULL, ping, NULL);
    for (uint32_t i = 0; i < 2000; i++) {
        words[0] = i + 1;
        futex(&words[0], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        while (words[1] == i) futex(&words[1], FUTEX_WAIT_PRIVATE, i, NULL, NULL, 0);
    }
    pthread_join(t, NULL);
}

/* Each waits for the other's change with a time-out that must not pass: after it the word would show a wake-up that was missed. */
static void no_wake_is_missed(volatile uint32_t *mine, volatile uint32_t *theirs, int flag, uint32_t first) {
    struct timespec limit = {20, 0};
    for (uint32_t i = 0; i < 3000; i++) {
        if (first) {
            __atomic_store_n(theirs, i + 1, __ATOMIC_RELAXED);
            futex(theirs, FUTEX_WAKE | flag, 1, NULL, NULL, 0);
        }
        while (__atomic_load_n(mine, __ATOMIC_RELAXED) == i) {
            /* By turns: as long as nobody has come; with a time-out; with a bit of one's own; and one that has just passed. */
            struct timespec soon = {0, 1000 * (long)(i % 64)};
            long r = i % 4 == 0   ? futex(mine, FUTEX_WAIT | flag, i, NULL, NULL, 0)
                     : i % 4 == 1 ? futex(mine, FUTEX_WAIT | flag, i, &limit, NULL, 0)
                     : i % 4 == 2 ? futex(mine, FUTEX_WAIT_BITSET | flag, i, NULL, NULL, 1 << i % 32)
                                  : futex(mine, FUTEX_WAIT | flag, i, &soon, NULL, 0);
            if (r < 0 && i % 4 != 3) CHECK_EQ(errno, EAGAIN);
        }
        if (!first) {
            __atomic_store_n(theirs, i + 1, __ATOMIC_RELAXED);
            futex(theirs, FUTEX_WAKE | flag, 1, NULL, NULL, 0);
        }
    }
}
static volatile uint32_t pair[2];
static void *answer(void *arg) {
    no_wake_is_missed(&pair[0], &pair[1], FUTEX_PRIVATE_FLAG, 0);
    return arg;
}
TEST(no_wake_is_missed_between_threads) {
    pthread_t t;
    pthread_create(&t, NULL, answer, NULL);
    no_wake_is_missed(&pair[1], &pair[0], FUTEX_PRIVATE_FLAG, 1);
    pthread_join(t, NULL);
}
TEST(no_wake_is_missed_between_processes) {
    volatile uint32_t *w = shared_words();
    pid_t pid = CHILD(no_wake_is_missed(w, w + 1, 0, 0));
    no_wake_is_missed(w + 1, w, 0, 1);
    CHECK_EXIT(pid, 0);
}

/* Several wait at one word that somebody else changes and wakes without waiting for anybody; a signal takes them out of it now and then. */
static volatile uint32_t turn;
static volatile uint32_t behind[4];
static void *follow(void *mine) {
    volatile uint32_t *seen = mine;
    struct timespec limit = {20, 0};
    for (uint32_t last = 0; last != UINT32_MAX;) {
        long r = futex(&turn, FUTEX_WAIT_PRIVATE, last, *seen % 2 ? &limit : NULL, NULL, 0);
        if (r < 0) CHECK(errno == EAGAIN || errno == EINTR);
        last = __atomic_load_n(&turn, __ATOMIC_RELAXED);
        *seen = last;
    }
    return NULL;
}
static void nothing(int sig) { (void)sig; }
TEST(a_word_that_is_changed_and_woken_again_and_again_keeps_nobody) {
    struct sigaction sa = {.sa_handler = nothing};
    sigaction(SIGUSR1, &sa, NULL);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, follow, (void *)&behind[i]);
    for (uint32_t i = 1; i < 8000; i++) {
        __atomic_store_n(&turn, i, __ATOMIC_RELAXED);
        futex(&turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        if (i % 500 == 0) pthread_kill(t[i / 500 % 4], SIGUSR1);
        /* All of them come here, sooner or later, and nobody wakes them a second time. */
        if (i % 100 == 0)
            for (int k = 0; k < 4; k++)
                while (behind[k] != i) sched_yield();
    }
    __atomic_store_n(&turn, UINT32_MAX, __ATOMIC_RELAXED);
    futex(&turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
}

TEST(waitv_waits_on_any_of_several) {
    volatile uint32_t *w = shared_words();
    struct futex_waitv v[2] = {{0, (uintptr_t)w, FUTEX_32, 0}, {0, (uintptr_t)(w + 1), FUTEX_32, 0}};
    pid_t me = getpid();
    pid_t pid = CHILD({
        wait_blocked(me);
        while (futex(w + 1, FUTEX_WAKE, 1, NULL, NULL, 0) == 0) sched_yield();
    });
    long r = syscall(SYS_futex_waitv, v, 2, 0, NULL, 0);
    if (r < 0 && errno == ENOSYS) {
        kill(pid, SIGKILL);
        return; /* Linux 5.16 has it; older ones do not */
    }
    CHECK_EQ(r, 1);
    CHECK_EXIT(pid, 0);
}
