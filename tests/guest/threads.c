/* Threads: creation, joining, thread-local storage, cancellation, exits, ids, many at once. */
#include "check.h"
#include <semaphore.h>
#include <asm/prctl.h>

static void *give_back(void *arg) { return arg; }

TEST(create_and_join) {
    pthread_t t;
    void *got;
    CHECK(pthread_create(&t, NULL, give_back, (void *)0x1234) == 0);
    CHECK(pthread_join(t, &got) == 0);
    CHECK(got == (void *)0x1234);
}

static void *store_ids(void *arg) {
    pid_t *ids = arg;
    ids[0] = getpid();
    ids[1] = my_tid();
    ids[2] = getppid();
    return NULL;
}
TEST(threads_share_the_pid_and_have_their_own_tid) {
    pid_t a[3], b[3];
    pthread_t t, u;
    pthread_create(&t, NULL, store_ids, a);
    pthread_create(&u, NULL, store_ids, b);
    pthread_join(t, NULL);
    pthread_join(u, NULL);
    CHECK_EQ(a[0], getpid());
    CHECK_EQ(b[0], getpid());
    CHECK_EQ(a[2], getppid());
    CHECK(a[1] != b[1] && a[1] != getpid() && b[1] != getpid());
    CHECK_EQ(my_tid(), getpid());
}

static __thread int local = 5;
static void *use_local(void *arg) {
    CHECK_EQ(local, 5);
    for (int i = 0; i < 1000; i++) {
        local++;
        if (i % 100 == 0) sched_yield();
    }
    CHECK_EQ(local, 1005);
    return arg;
}
TEST(thread_local_storage_is_per_thread) {
    pthread_t t[8];
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&t[i], NULL, use_local, NULL) == 0);
    for (int i = 0; i < 8; i++) pthread_join(t[i], NULL);
    CHECK_EQ(local, 5);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long counter;
static void *count_up(void *arg) {
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    return arg;
}
TEST(a_mutex_excludes) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, count_up, NULL);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    CHECK_EQ(counter, 20000);
}

static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn;
static void *take_turns(void *arg) {
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < 500; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != me) pthread_cond_wait(&cond, &mutex);
        turn = !me;
        counter++;
        pthread_cond_signal(&cond);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
TEST(condition_variables_hand_over) {
    pthread_t a, b;
    pthread_create(&a, NULL, take_turns, (void *)0);
    pthread_create(&b, NULL, take_turns, (void *)1);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    CHECK_EQ(counter, 1000);
}

TEST(a_timed_wait_times_out) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 30000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    long long start = now_ns(CLOCK_MONOTONIC);
    pthread_mutex_lock(&mutex);
    CHECK_EQ(pthread_cond_timedwait(&cond, &mutex, &until), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 29000000);
    sem_t sem;
    sem_init(&sem, 0, 0);
    CHECK_ERR(sem_timedwait(&sem, &until), ETIMEDOUT);
}

static pthread_barrier_t barrier;
static void *meet(void *arg) {
    for (int i = 0; i < 20; i++) {
        __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
        pthread_barrier_wait(&barrier);
        CHECK_EQ(__atomic_load_n((int *)arg, __ATOMIC_SEQ_CST) % 6, 0);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}
TEST(barriers_and_many_rounds) {
    int sum = 0;
    pthread_t t[6];
    pthread_barrier_init(&barrier, NULL, 6);
    for (int i = 0; i < 6; i++) pthread_create(&t[i], NULL, meet, &sum);
    for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
    CHECK_EQ(sum, 120);
}

TEST(two_hundred_threads_at_once) {
    pthread_t t[200];
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 65536);
    pthread_barrier_init(&barrier, NULL, 201);
    for (int i = 0; i < 200; i++)
        CHECK(pthread_create(&t[i], &attr, (void *(*)(void *))pthread_barrier_wait, &barrier) == 0);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 200; i++) CHECK(pthread_join(t[i], NULL) == 0);
}

TEST(threads_come_and_go_a_thousand_times) {
    for (int i = 0; i < 1000; i++) {
        pthread_t t;
        CHECK(pthread_create(&t, NULL, give_back, NULL) == 0);
        CHECK(pthread_join(t, NULL) == 0);
    }
}

static int cancel_pipe[2];
static volatile int cleaned;
static void cleanup(void *arg) {
    (void)arg;
    cleaned = 1;
}
static void *read_for_ever(void *arg) {
    char c;
    *(volatile pid_t *)arg = my_tid();
    pthread_cleanup_push(cleanup, NULL);
    read(cancel_pipe[0], &c, 1);
    pthread_cleanup_pop(0);
    return NULL;
}
TEST(a_thread_blocked_in_read_can_be_cancelled) {
    CHECK(pipe(cancel_pipe) == 0);
    volatile pid_t tid = 0;
    pthread_t t;
    void *result;
    pthread_create(&t, NULL, read_for_ever, (void *)&tid);
    while (!tid) sched_yield();
    wait_blocked(tid);
    CHECK(pthread_cancel(t) == 0);
    CHECK(pthread_join(t, &result) == 0);
    CHECK(result == PTHREAD_CANCELED && cleaned);
}

static volatile sig_atomic_t handled_by;
static void note_tid(int sig) {
    (void)sig;
    handled_by = my_tid();
}
static void *wait_for_signal(void *arg) {
    *(volatile pid_t *)arg = my_tid();
    while (!handled_by) usleep(1000);
    return NULL;
}
TEST(tgkill_reaches_the_chosen_thread) {
    handle_signal(SIGUSR1, note_tid, 0);
    volatile pid_t tid = 0;
    pthread_t t;
    pthread_create(&t, NULL, wait_for_signal, (void *)&tid);
    while (!tid) sched_yield();
    CHECK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1) == 0);
    pthread_join(t, NULL);
    CHECK_EQ(handled_by, tid);
    // Joined means that the thread has let go of its stack; its number lives on until the kernel is done with it.
    while (syscall(SYS_tgkill, getpid(), tid, 0) == 0) sched_yield();
    CHECK_ERR(syscall(SYS_tgkill, getpid(), tid, SIGUSR1), ESRCH);
    CHECK_ERR(syscall(SYS_tgkill, 0, my_tid(), 0), EINVAL);
}

TEST(a_process_signal_goes_to_a_thread_that_does_not_block_it) {
    handle_signal(SIGUSR1, note_tid, 0);
    volatile pid_t tid = 0;
    pthread_t t;
    pthread_create(&t, NULL, wait_for_signal, (void *)&tid);
    sigset_t usr1 = signal_set(SIGUSR1, 0);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    while (!tid) sched_yield();
    CHECK(kill(getpid(), SIGUSR1) == 0);
    pthread_join(t, NULL);
    CHECK_EQ(handled_by, tid);
}

TEST(fork_in_a_threaded_process_copies_one_thread) {
    CHECK(pipe(cancel_pipe) == 0);
    volatile pid_t tid = 0;
    pthread_t t;
    pthread_create(&t, NULL, read_for_ever, (void *)&tid);
    while (!tid) sched_yield();
    pid_t pid = CHILD({
        CHECK_EQ(my_tid(), getpid());
        CHECK_ERR(syscall(SYS_tgkill, getpid(), tid, 0), ESRCH);
        pthread_t u;
        CHECK(pthread_create(&u, NULL, give_back, NULL) == 0);
        CHECK(pthread_join(u, NULL) == 0);
    });
    CHECK_EXIT(pid, 0);
    CHECK(write(cancel_pipe[1], "x", 1) == 1);
    pthread_join(t, NULL);
}

static void *fault(void *arg) { return *(volatile int *)arg = 1, NULL; }
TEST(a_fault_in_one_thread_kills_the_process) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    pid_t pid = CHILD({
        pthread_t t;
        pthread_create(&t, NULL, fault, (void *)8);
        for (;;) pause();
    });
    CHECK_KILLED(pid, SIGSEGV);
}

static volatile pid_t cleared = 77;
static int thread_body(void *arg) {
    (void)arg;
    syscall(SYS_exit, 0);
    return 0;
}
TEST(clone_child_cleartid_clears_and_wakes) {
    static char stack[65536] __attribute__((aligned(16)));
    pid_t ptid = 0;
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    pid_t tid = clone(thread_body, stack + sizeof stack, flags, NULL, &ptid, NULL, &cleared);
    CHECK(tid > 0);
    CHECK_EQ(ptid, tid);
    while (cleared) syscall(SYS_futex, &cleared, 0 /* FUTEX_WAIT */, 77, NULL, NULL, 0);
    CHECK_EQ(cleared, 0);
}

TEST(arch_prctl_reads_and_sets_fs_and_gs) {
    unsigned long fs = 0, gs = 1;
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0);
    unsigned long self;
    __asm__("mov %%fs:0, %0" : "=r"(self));
    CHECK(fs == self);
    static unsigned long word = 0xabcdef;
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, &word) == 0);
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs) == 0 && gs == (unsigned long)&word);
    __asm__ volatile("mov %%gs:0, %0" : "=r"(self));
    CHECK(self == 0xabcdef);
    pid_t pid = CHILD({
        __asm__ volatile("mov %%gs:0, %0" : "=r"(self));
        CHECK(self == 0xabcdef);
    });
    CHECK_EXIT(pid, 0);
    CHECK_ERR(syscall(SYS_arch_prctl, ARCH_SET_FS, 1UL << 63), EPERM);
    CHECK_ERR(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
}

TEST(proc_task_lists_every_thread) {
    CHECK(pipe(cancel_pipe) == 0);
    volatile pid_t tid = 0;
    pthread_t t;
    pthread_create(&t, NULL, read_for_ever, (void *)&tid);
    while (!tid) sched_yield();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    CHECK(access(path, F_OK) == 0);
    read_file("/proc/self/status");
    CHECK(strstr(file_text, "Threads:\t2\n"));
    CHECK(write(cancel_pipe[1], "x", 1) == 1);
    pthread_join(t, NULL);
}

static void *leave_what_is_shared(void *arg) {
    int *pipe_ends = arg;
    CHECK_ERR(syscall(SYS_unshare, CLONE_THREAD), EINVAL);
    CHECK_ERR(syscall(SYS_unshare, CLONE_VM), EINVAL);
    CHECK(syscall(SYS_unshare, CLONE_FILES | CLONE_FS | CLONE_SYSVSEM) == 0);
    CHECK(close(pipe_ends[0]) == 0);
    CHECK(chdir("/proc") == 0);
    umask(0);
    return NULL;
}
TEST(unshare_gives_a_thread_its_own_files_and_directory) {
    int pipe_ends[2];
    char directory[256];
    CHECK(pipe(pipe_ends) == 0 && chdir("/") == 0);
    umask(022);
    pthread_t t;
    pthread_create(&t, NULL, leave_what_is_shared, pipe_ends);
    pthread_join(t, NULL);
    CHECK(fcntl(pipe_ends[0], F_GETFD) == 0);
    CHECK(getcwd(directory, sizeof directory) && !strcmp(directory, "/"));
    CHECK_EQ(umask(022), 022);
    CHECK_ERR(syscall(SYS_unshare, 1), EINVAL);
    CHECK(syscall(SYS_unshare, 0) == 0);
}
