// Calls made so often from one place that a sandbox may do something about that place: nothing may come of it
// but speed. Code that is changed, moved, read or left, signals in the middle, threads at the same place, and the
// register that such a sandbox might need for itself.
#include "check.h"

#include <stdatomic.h>

enum { HOT = 300, PAGE = 4096 };

// mov eax, NUMBER; syscall; ret
static const unsigned char CODE[] = {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};

static void put_code(unsigned char *page, int number) {
    memcpy(page, CODE, sizeof CODE);
    memcpy(page + 1, &number, 4);
}

static unsigned char *code_page(int number) {
    unsigned char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    put_code(page, number);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_EXEC) == 0);
    return page;
}

static long call(unsigned char *code) {
    return ((long (*)(void))(uintptr_t)code)();
}

static void call_often(unsigned char *code, long want) {
    for (int i = 0; i < HOT; i++) CHECK_EQ(call(code), want);
}

TEST(code_that_is_rewritten_does_what_it_says_now) {
    unsigned char *page = code_page(SYS_getppid);
    call_often(page, getppid());
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
    unsigned char want[sizeof CODE];
    put_code(want, SYS_getppid);
    CHECK(memcmp(page, want, sizeof want) == 0);
    put_code(page, SYS_getpgrp);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_EXEC) == 0);
    call_often(page, getpgrp());
}

// Also when the call that reads it is made so often that its data are carried to the kernel.
TEST(the_kernel_reads_code_as_it_was_written) {
    unsigned char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memset(page, 0x90, PAGE);
    unsigned char *code = page + 512, want[sizeof CODE], got[sizeof CODE];
    put_code(code, SYS_getppid);
    put_code(want, SYS_getppid);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_EXEC) == 0);
    int p[2];
    CHECK(pipe(p) == 0);
    for (int i = 0; i < HOT; i++) {
        CHECK_EQ(call(code), getppid());
        CHECK(write(p[1], code, sizeof got) == sizeof got);
        CHECK(read(p[0], got, sizeof got) == sizeof got);
        CHECK(memcmp(got, want, sizeof got) == 0);
    }
}

TEST(code_can_be_moved_replaced_and_given_back) {
    unsigned char *page = code_page(SYS_getppid);
    call_often(page, getppid());
    unsigned char *moved = mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                                  mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(moved != MAP_FAILED);
    call_often(moved, getppid());
    CHECK(mmap(moved, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == moved);
    put_code(moved, SYS_getpgrp);
    CHECK(mprotect(moved, PAGE, PROT_READ | PROT_EXEC) == 0);
    call_often(moved, getpgrp());
    CHECK(munmap(moved, PAGE) == 0);
    pid_t pid = CHILD({
        signal(SIGSEGV, SIG_DFL);
        call(moved);
    });
    CHECK_KILLED(pid, SIGSEGV);
}

TEST(children_make_hot_calls_of_their_own) {
    unsigned char *page = code_page(SYS_getppid);
    call_often(page, getppid());
    pid_t parent = getpid();
    for (int i = 0; i < 3; i++) {
        pid_t pid = CHILD({
            call_often(page, parent);
            CHECK_EQ(syscall(SYS_getpid), getpid());
            CHECK(syscall(SYS_getpid) != parent);
        });
        CHECK_EXIT(pid, 0);
    }
    call_often(page, getppid());
}

static atomic_int signals;

static void count(int signal) {
    (void)signal;
    signals++;
}

TEST(signals_in_the_middle_of_hot_calls_lose_nothing) {
    signals = 0;
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    int p[2];
    CHECK(pipe(p) == 0);
    long parent = getppid();
    for (int i = 0; i < 5000 || signals < 20; i++) {
        char out = (char)i, in = (char)~i;
        CHECK_EQ(write(p[1], &out, 1), 1);
        CHECK_EQ(read(p[0], &in, 1), 1);
        CHECK_EQ(in, out);
        CHECK_EQ(syscall(SYS_getppid), parent);
        // Every register but rax, rcx and r11 survives.
        register long r12 __asm__("r12") = i, rbx __asm__("rbx") = ~i;
        long result, a = 1 + i, b = 2 + i, c = 3 + i;
        register long d __asm__("r10") = 4 + i;
        register long e __asm__("r8") = 5 + i;
        register long f __asm__("r9") = 6 + i;
        __asm__ volatile("mov $110, %%eax\n syscall"
                         : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(r12), "+r"(rbx)
                         :
                         : "rcx", "r11", "memory");
        CHECK_EQ(result, parent);
        CHECK(a == 1 + i && b == 2 + i && c == 3 + i && d == 4 + i && e == 5 + i && f == 6 + i);
        CHECK(r12 == i && rbx == ~i);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

// Small ones make the place hot; large ones are answered after ten to some hundred microseconds, in the middle of which signals come.
TEST(hot_calls_whose_answers_take_longer_return_them) {
    enum { LARGEST = 1 << 20 };
    static unsigned char data[LARGEST];
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
    signals = 0;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    long parent = getppid();
    for (int i = 0; i < 4000 || signals < 20; i++) {
        long size = i % 20 ? 1 + i % PAGE : (long)(1 + i / 20 % 64) * (LARGEST / 64), at = i % 7;
        unsigned char last = ~(unsigned char)i;
        data[0] = data[size - 1] = (unsigned char)i;
        CHECK_EQ(pwrite(fd, data, size, at), size);
        CHECK_EQ(syscall(SYS_getppid), parent);
        CHECK_EQ(pread(fd, &last, 1, at + size - 1), 1);
        CHECK_EQ(last, (unsigned char)i);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

TEST(a_hot_blocking_read_is_interrupted_and_restarted) {
    struct sigaction action = {.sa_handler = count};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    int p[2];
    char c = 0;
    CHECK(pipe(p) == 0);
    for (int i = 0; i < HOT; i++) {
        CHECK(write(p[1], "x", 1) == 1);
        CHECK(read(p[0], &c, 1) == 1);
    }
    struct itimerval soon = {{0, 0}, {0, 20000}};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK_ERR(read(p[0], &c, 1), EINTR);
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    pid_t pid = CHILD({
        usleep(100000);
        CHECK(write(p[1], "y", 1) == 1);
    });
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK(read(p[0], &c, 1) == 1);
    CHECK_EQ(c, 'y');
    CHECK_EXIT(pid, 0);
}

static void *hot_thread(void *code) {
    long parent = getppid();
    for (int i = 0; i < 3000; i++)
        if (call(code) != parent) return (void *)1;
    return NULL;
}

TEST(threads_meet_at_a_place_that_becomes_hot) {
    for (int round = 0; round < 10; round++) {
        unsigned char *page = code_page(SYS_getppid);
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, hot_thread, page) == 0);
        for (int i = 0; i < 4; i++) {
            void *result;
            CHECK(pthread_join(threads[i], &result) == 0);
            CHECK(result == NULL);
        }
        CHECK(munmap(page, PAGE) == 0);
    }
}

TEST(identities_reported_often_follow_their_changes) {
    for (int i = 0; i < HOT; i++) CHECK_EQ(syscall(SYS_getuid), 0);
    pid_t pid = CHILD({
        CHECK(syscall(SYS_setresuid, 1000, 1001, 1002) == 0);
        CHECK_EQ(syscall(SYS_getuid), 1000);
        CHECK_EQ(syscall(SYS_geteuid), 1001);
        CHECK_EQ(syscall(SYS_getpid), syscall(SYS_gettid));
    });
    CHECK_EXIT(pid, 0);
    CHECK_EQ(syscall(SYS_getuid), 0);
}

TEST(a_program_may_use_gs_itself) {
    static unsigned long own[512];
    pid_t pid = CHILD({
        for (int i = 0; i < HOT; i++) syscall(SYS_getppid);
        own[1] = 77;
        CHECK(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, own) == 0);
        for (int i = 0; i < HOT; i++) {
            CHECK_EQ(syscall(SYS_getppid), getppid());
            unsigned long value;
            __asm__ volatile("mov %%gs:8, %0" : "=r"(value));
            CHECK_EQ(value, 77);
        }
        for (int i = 0; i < 512; i++) CHECK_EQ(own[i], i == 1 ? 77 : 0);
    });
    CHECK_EXIT(pid, 0);
}

TEST(bad_pointers_fail_as_ever_when_calls_are_hot) {
    int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
    char c;
    char *closed = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(munmap(closed + PAGE, PAGE) == 0);
    for (int i = 0; i < HOT; i++) {
        CHECK(read(zero, &c, 1) == 1);
        CHECK(access("/dev/zero", F_OK) == 0);
    }
    for (int i = 0; i < 20; i++) {
        CHECK_ERR(read(zero, closed, 1), EFAULT);
        CHECK_ERR(read(zero, (void *)(uintptr_t)8, 1), EFAULT);
        CHECK_ERR(read(zero, (void *)(uintptr_t)-8, 1), EFAULT);
        CHECK_ERR(access((char *)(uintptr_t)0x123456789000, F_OK), EFAULT);
        CHECK_ERR(access((char *)closed + PAGE, F_OK), EFAULT);
    }
    CHECK(write(null, &c, 1) == 1);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_ERR(write(p[1], closed + PAGE, 1), EFAULT);
}

// Maps and gives back as much again and again, a few of them at a time; each has its maker's mark while it lasts.
enum { KEPT = 5, TURNS = 1500 };
static void map_and_give_back(size_t length, int mark) {
    char *kept[KEPT] = {0};
    for (int i = 0; i < TURNS; i++) {
        char **place = &kept[i % (1 + i / 100 % KEPT)];
        if (*place) {
            CHECK(**place == mark && (*place)[length - 1] == mark);
            CHECK(munmap(*place, length) == 0);
        }
        char *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED);
        CHECK(*p == 0 && p[length - 1] == 0);
        *p = p[length - 1] = (char)mark;
        *place = p;
    }
    for (int i = 0; i < KEPT; i++) CHECK(!kept[i] || munmap(kept[i], length) == 0);
}
static void *map_the_same(void *mark) {
    map_and_give_back(2 * PAGE, (int)(intptr_t)mark);
    return NULL;
}
static void *map_more(void *mark) {
    map_and_give_back(64 * PAGE, (int)(intptr_t)mark);
    return NULL;
}
TEST(memory_mapped_again_and_again_is_new_each_time_and_its_makers_alone) {
    map_and_give_back(2 * PAGE, 1);
    pthread_t threads[3];
    for (intptr_t i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, i == 2 ? map_more : map_the_same, (void *)(i + 2)) == 0);
    }
    map_and_give_back(2 * PAGE, 5);
    for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

TEST(limits_of_memory_hold_for_what_is_mapped_often) {
    struct rlimit as;
    CHECK(getrlimit(RLIMIT_AS, &as) == 0);
    map_and_give_back(2 * PAGE, 1);
    as.rlim_cur = 64 << 20;
    CHECK(setrlimit(RLIMIT_AS, &as) == 0);
    int count = 0;
    while (mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) count++;
    CHECK_EQ(errno, ENOMEM);
    CHECK(count > 16 && count < 64);
    CHECK_ERR(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
}
