/* Children made again and again: the kernel takes shorter ways then, which must show nowhere. Threads, fork, vfork, memory
 * that several threads map and give back, libraries that a program puts into place itself. */
#include "check.h"

enum { MANY = 60 };

/* What children execute: nothing. */
__attribute__((constructor(101))) static void end_early(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--nothing")) _exit(0);
}

/* Registers and thread area. */
static __thread int own = 7;
static unsigned vector_control(void) {
    unsigned word;
    __asm__ volatile("stmxcsr %0" : "=m"(word));
    return word;
}
static void *use_what_a_thread_has(void *arg) {
    CHECK_EQ(own, 7);
    own = (int)(intptr_t)arg;
    unsigned rounding = vector_control() & 0x6000;
    sched_yield();
    CHECK_EQ(own, (int)(intptr_t)arg);
    return (void *)(uintptr_t)rounding;
}
TEST(every_thread_has_its_stack_its_area_and_the_rounding_of_its_maker) {
    unsigned upward = vector_control() | 0x4000;
    __asm__ volatile("ldmxcsr %0" : : "m"(upward));
    for (int i = 0; i < MANY; i++) {
        pthread_t t;
        void *rounding;
        CHECK(pthread_create(&t, NULL, use_what_a_thread_has, (void *)(intptr_t)(i + 100)) == 0);
        CHECK(pthread_join(t, &rounding) == 0);
        CHECK_EQ((unsigned)(uintptr_t)rounding, 0x4000u);
    }
    CHECK_EQ(own, 7);
}

/* The registers that a call preserves are preserved in parent and child. */
static long fork_keeping_registers(long *after) {
    long pid;
    long a = 0x1111, b = 0x2222, c = 0x3333, d = 0x4444, e = 0x5555;
    __asm__ volatile("mov %2, %%rbx; mov %3, %%r12; mov %4, %%r13; mov %5, %%r14; mov %6, %%r15\n"
                     "mov $57, %%eax; mov $0x61, %%edi; mov $0x62, %%esi; mov $0x63, %%edx\n"
                     "mov $0x64, %%r10d; mov $0x65, %%r8d; mov $0x66, %%r9d\n"
                     "syscall\n"
                     "mov %%rax, %0; mov %1, %%rax\n"
                     "mov %%rbx, (%%rax); mov %%r12, 8(%%rax); mov %%r13, 16(%%rax); mov %%r14, 24(%%rax)\n"
                     "mov %%r15, 32(%%rax); mov %%rdi, 40(%%rax); mov %%rsi, 48(%%rax); mov %%rdx, 56(%%rax)\n"
                     "mov %%r10, 64(%%rax); mov %%r8, 72(%%rax); mov %%r9, 80(%%rax)\n"
                     : "=m"(pid)
                     : "m"(after), "m"(a), "m"(b), "m"(c), "m"(d), "m"(e)
                     : "rax", "rbx", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r13",
                       "r14", "r15", "memory");
    return pid;
}
TEST(parent_and_child_keep_their_registers) {
    static const long expected[11] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x61,
                                      0x62,   0x63,   0x64,   0x65,   0x66};
    for (int i = 0; i < MANY; i++) {
        long after[11] = {0};
        long pid = fork_keeping_registers(after);
        bool same = !memcmp(after, expected, sizeof after);
        if (pid == 0) _exit(same ? 42 : 1);
        CHECK(pid > 0 && same);
        CHECK_EXIT(pid, 42);
    }
}

TEST(a_child_has_its_own_memory_and_numbers) {
    int value = 5;
    for (int i = 0; i < MANY; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            value += i;
            _exit(value == 5 + i && getpid() != getppid() && my_tid() == getpid() ? 3 : 1);
        }
        CHECK(pid > 0);
        CHECK_EXIT(pid, 3);
        CHECK_EQ(value, 5);
    }
}

TEST(children_have_children) {
    for (int i = 0; i < MANY; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            int status = 0;
            pid_t inner = fork();
            if (inner == 0) _exit(9);
            pthread_t t;
            void *got = NULL;
            bool well = waitpid(inner, &status, 0) == inner && WEXITSTATUS(status) == 9 &&
                        pthread_create(&t, NULL, use_what_a_thread_has, (void *)8) == 0 &&
                        pthread_join(t, &got) == 0;
            _exit(well ? 4 : 1);
        }
        CHECK_EXIT(pid, 4);
    }
}

TEST(vfork_shares_memory_and_waits) {
    static volatile int shared;
    for (int i = 0; i < MANY; i++) {
        shared = 0;
        pid_t pid = vfork();
        if (pid == 0) {
            shared = i + 1;
            _exit(6);
        }
        CHECK(pid > 0);
        CHECK_EQ(shared, i + 1);
        CHECK_EXIT(pid, 6);
    }
}

TEST(vfork_and_exec_again_and_again) {
    for (int i = 0; i < MANY; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            execl("/proc/self/exe", "hot_children", "--nothing", (char *)0);
            _exit(1);
        }
        CHECK(pid > 0);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

/* Signals while children are made. */
static volatile sig_atomic_t ticks;
static void tick(int sig) {
    (void)sig;
    ticks++;
}
static void *return_it(void *arg) { return arg; }
TEST(signals_arrive_while_threads_and_processes_are_made) {
    handle_signal(SIGALRM, tick, SA_RESTART);
    struct itimerval often = {{0, 300}, {0, 300}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int i = 0; i < 300; i++) {
        pthread_t t;
        void *got;
        CHECK(pthread_create(&t, NULL, return_it, (void *)(intptr_t)i) == 0);
        CHECK(pthread_join(t, &got) == 0 && got == (void *)(intptr_t)i);
    }
    for (int i = 0; i < MANY; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(i);
        CHECK(pid > 0);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == i);
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(ticks > 0);
}

static volatile bool stop_it;
static void *signal_others(void *arg) {
    pthread_t *target = arg;
    while (!stop_it) {
        pthread_kill(*target, SIGUSR1);
        sched_yield();
    }
    return NULL;
}
TEST(a_thread_that_makes_children_is_signalled_all_the_time) {
    handle_signal(SIGUSR1, tick, SA_RESTART);
    pthread_t self = pthread_self(), t;
    CHECK(pthread_create(&t, NULL, signal_others, &self) == 0);
    for (int i = 0; i < MANY; i++) {
        pthread_t u;
        void *got;
        CHECK(pthread_create(&u, NULL, return_it, (void *)(intptr_t)i) == 0);
        CHECK(pthread_join(u, &got) == 0 && got == (void *)(intptr_t)i);
        pid_t pid = fork();
        if (pid == 0) _exit(i);
        CHECK(pid > 0);
        CHECK_EXIT(pid, i);
    }
    stop_it = true;
    CHECK(pthread_join(t, NULL) == 0);
    CHECK(ticks > 0);
}

/* A child takes a signal on its own signal stack and on its own stack. */
static void *take_a_fault(void *arg) {
    int local = 11;
    raise(SIGUSR2);
    *(volatile int *)arg += local;
    return NULL;
}
TEST(new_threads_take_signals) {
    handle_signal(SIGUSR2, tick, 0);
    int sum = 0;
    for (int i = 0; i < MANY; i++) {
        pthread_t t;
        CHECK(pthread_create(&t, NULL, take_a_fault, &sum) == 0);
        CHECK(pthread_join(t, NULL) == 0);
    }
    CHECK_EQ(sum, 11 * MANY);
    CHECK_EQ(ticks, MANY);
}

/* Many threads make threads at once. */
static int made;
static void *make_more(void *arg) {
    intptr_t depth = (intptr_t)arg;
    __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST);
    if (depth == 0) return NULL;
    pthread_t t[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&t[i], NULL, make_more, (void *)(depth - 1)) == 0);
    for (int i = 0; i < 3; i++) CHECK(pthread_join(t[i], NULL) == 0);
    return NULL;
}
TEST(threads_make_threads_at_once) {
    for (int round = 0; round < 3; round++) make_more((void *)3);
    CHECK_EQ(made, 3 * (1 + 3 + 9 + 27));
}
static void *fork_often(void *arg) {
    for (int i = 0; i < 30; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(5);
        CHECK(pid > 0);
        CHECK_EXIT(pid, 5);
    }
    return arg;
}
TEST(threads_fork_at_once) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&t[i], NULL, fork_often, NULL) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(t[i], NULL) == 0);
}

/* Failures. */
TEST(impossible_children_are_refused_with_the_right_error) {
    for (int i = 0; i < MANY; i++) {
        CHECK_ERR(syscall(SYS_clone, CLONE_THREAD, 0, 0, 0, 0), EINVAL);
        /* The host has to say this one. */
        CHECK_ERR(syscall(SYS_clone, SIGCHLD | CLONE_SETTLS, 0, 0, 0, 1UL << 63), EPERM);
        pid_t pid = fork();
        if (pid == 0) _exit(2);
        CHECK_EXIT(pid, 2);
    }
}

/* Memory, with several threads in it. */
static void *map_and_unmap(void *arg) {
    unsigned char mark = (unsigned char)(intptr_t)arg;
    for (int i = 0; i < 400; i++) {
        size_t size = (size_t)(1 + i % 5) * 4096;
        unsigned char *p =
            mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED && p[0] == 0 && p[size - 1] == 0);
        memset(p, mark, size);
        if (i % 3 == 0) {
            CHECK(mprotect(p, size, PROT_READ) == 0);
            CHECK(mprotect(p, size, PROT_READ | PROT_WRITE) == 0);
        }
        if (i % 4 == 0) {
            CHECK(madvise(p, size, MADV_DONTNEED) == 0);
            CHECK(p[0] == 0 && p[size - 1] == 0);
            memset(p, mark, size);
        }
        CHECK(p[0] == mark && p[size - 1] == mark);
        CHECK(munmap(p, size) == 0);
    }
    return NULL;
}
TEST(threads_map_and_unmap_without_getting_at_each_others_memory) {
    pthread_t t[6];
    for (intptr_t i = 0; i < 6; i++) CHECK(pthread_create(&t[i], NULL, map_and_unmap, (void *)(i + 1)) == 0);
    for (int i = 0; i < 6; i++) CHECK(pthread_join(t[i], NULL) == 0);
}

/* As a dynamic linker does it: the whole file first, then its parts over that, in a fresh program and in one with threads. */
static void put_into_place(int fd, int rounds) {
    for (int i = 0; i < rounds; i++) {
        char *p = mmap(NULL, 5 * 4096, PROT_READ, MAP_PRIVATE, fd, 0);
        CHECK(p != MAP_FAILED && p[0] == 'a' && p[4096] == 'b');
        CHECK(mmap(p + 4096, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 2 * 4096) == p + 4096);
        CHECK(mmap(p + 8192, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == p + 8192);
        CHECK(mmap(p + 3 * 4096, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1,
                   0) == p + 3 * 4096);
        CHECK(p[0] == 'a' && p[4096] == 'c' && p[8192] == 'a' && p[3 * 4096] == 0 && p[5 * 4096 - 1] == 0);
        p[8192] = 'x';
        p[3 * 4096] = 'y';
        char c;
        CHECK(pread(fd, &c, 1, 0) == 1 && c == 'a');
        CHECK_ERR((long)mmap(p + 1, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0), EINVAL);
        CHECK_ERR((long)mmap(p, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 1), EINVAL);
        CHECK(munmap(p, 5 * 4096) == 0);
    }
}
static int open_library(void) {
    int fd = open("library", O_RDWR | O_CREAT, 0700);
    CHECK(fd >= 0);
    for (int i = 0; i < 5; i++) {
        char page[4096];
        memset(page, 'a' + i, sizeof page);
        CHECK(write(fd, page, sizeof page) == sizeof page);
    }
    return fd;
}
static void *put_into_place_often(void *arg) {
    put_into_place(*(int *)arg, MANY);
    return NULL;
}
TEST(parts_of_a_file_are_put_into_place) {
    int fd = open_library();
    put_into_place(fd, MANY);
    /* Another file under the same number. */
    int other = open("other", O_RDWR | O_CREAT, 0700);
    char page[4096];
    memset(page, 'o', sizeof page);
    CHECK(write(other, page, sizeof page) == sizeof page);
    char *p = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(dup2(other, fd) == fd);
    CHECK(mmap(p + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == p + 4096);
    CHECK(p[0] == 'a' && p[4096] == 'o');
    CHECK(close(fd) == 0);
    CHECK_ERR((long)mmap(p, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0), EBADF);
    CHECK(p[0] == 'a');
    pid_t pid = fork();
    if (pid == 0) {
        put_into_place(open_library(), 3);
        _exit(8);
    }
    CHECK_EXIT(pid, 8);
}
TEST(parts_of_a_file_are_put_into_place_by_threads) {
    int fd = open_library();
    pthread_t t[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&t[i], NULL, put_into_place_often, &fd) == 0);
    for (int i = 0; i < 3; i++) CHECK(pthread_join(t[i], NULL) == 0);
}

static void *execute(void *arg) {
    (void)arg;
    execl("/proc/self/exe", "hot_children", "--nothing", (char *)0);
    return NULL;
}
TEST(a_thread_executes_while_others_make_threads) {
    for (int i = 0; i < 10; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t t;
            pthread_create(&t, NULL, execute, NULL);
            for (;;) {
                pthread_t u;
                if (pthread_create(&u, NULL, return_it, NULL) == 0) pthread_join(u, NULL);
            }
        }
        CHECK_EXIT(pid, 0);
    }
}
