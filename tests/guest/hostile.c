/*
 * What a hostile program tries: other system-call gates, jumps where no code should be,
 * unmapping everything, arguments that change while they are read. On Linux and in a
 * sandbox alike the process must come out alive with an error, or die by the right
 * signal; nothing here may take anybody else along.
 */
#include "check.h"
#include <setjmp.h>
#include <sys/rseq.h>
#include <sys/uio.h>

static sigjmp_buf back;
static volatile int fault_signal;
static void escape(int sig) {
    fault_signal = sig;
    siglongjmp(back, 1);
}
static void catch_all(void) {
    static char alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    CHECK(sigaltstack(&ss, NULL) == 0);
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGSYS};
    for (int i = 0; i < 5; i++) handle_signal(signals[i], escape, SA_ONSTACK);
}
#define TRY(block) (sigsetjmp(back, 1) == 0 ? ({ block; 0; }) : fault_signal)

static void still_works(void) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1 && read(p[0], &c, 1) == 1 && c == 'x');
    CHECK_EXIT(CHILD(_exit(3)), 3);
}

static void no_core(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
}

/* exit(77) if the gate reached a kernel that made a file for us. */
static int through_gate(const char *gate) {
    int pid = CHILD({
        no_core();
        long result = -1;
        static const char path[] = "made-by-the-gate";
        char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CHECK(low == (void *)0x10000000);
        memcpy(low, path, sizeof path);
        if (!strcmp(gate, "int80")) /* creat, i386 number 8 */
            __asm__ volatile("int $0x80" : "=a"(result) : "0"(8L), "b"(low), "c"(0644L) : "memory", "r8", "r9", "r10", "r11");
        else if (!strcmp(gate, "x32"))
            __asm__ volatile("syscall" : "=a"(result) : "0"(0x40000000L + SYS_creat), "D"(low), "S"(0644L) : "memory", "rcx", "r11");
        _exit(result >= 0 ? 77 : 0);
    });
    int st;
    CHECK(waitpid(pid, &st, 0) == pid);
    return st;
}

TEST(int_0x80_makes_no_file_behind_the_kernels_back) {
    /* Linux may have the i386 gate: then the file must be where this kernel sees it. */
    int st = through_gate("int80");
    bool there = access("made-by-the-gate", F_OK) == 0;
    CHECK(there == (WIFEXITED(st) && WEXITSTATUS(st) == 77));
    CHECK(WIFSIGNALED(st) || WIFEXITED(st));
    still_works();
}

TEST(x32_calls_make_no_file_behind_the_kernels_back) {
    int st = through_gate("x32");
    bool there = access("made-by-the-gate", F_OK) == 0;
    CHECK(there == (WIFEXITED(st) && WEXITSTATUS(st) == 77));
    still_works();
}

TEST(sysenter_kills_or_fails_but_stays_inside) {
    no_core();
    pid_t pid = CHILD({
        __asm__ volatile("mov %%rsp, %%rbp\n sysenter" ::"a"(1L), "b"(99L) : "memory", "rcx", "rdx");
        _exit(5);
    });
    int st;
    CHECK(waitpid(pid, &st, 0) == pid);
    CHECK(WIFSIGNALED(st) || WIFEXITED(st));
    still_works();
}

TEST(jumping_into_unmapped_and_high_memory_faults) {
    catch_all();
    static const unsigned long targets[] = {0, 8, 0x1000, 0x7fffffffe000, 0x7fffffffffff, 0x7ffffffff000, 0x800000000000,
                                            0xffff800000000000, 0xffffffff81000000, 0xfffffffffffff000};
    for (unsigned i = 0; i < sizeof targets / sizeof *targets; i++) {
        int sig = TRY(((void (*)(void))targets[i])());
        CHECK(sig == SIGSEGV);
    }
    still_works();
}

TEST(the_upper_half_of_the_address_space_is_never_readable) {
    catch_all();
    int p[2];
    CHECK(pipe(p) == 0);
    for (unsigned long a = 0x7ffffffff000; a; a = a < 0x800000000000 ? 0xffff800000000000 : a + 0x100000000000) {
        CHECK_ERR(write(p[1], (void *)a, 1), EFAULT);
        CHECK(TRY((void)*(volatile char *)a) == SIGSEGV);
        if (a > 0xfffff00000000000 - 0x200000000000) break;
    }
}

static volatile int done;
/* Called with everything else about to vanish: must not touch the stack or other code. */
__attribute__((noinline, section(".text.lonely"), aligned(4096))) static void unmap_above_and_exit(unsigned long from, unsigned long to) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "0"((long)SYS_munmap), "D"(from), "S"(to - from) : "rcx", "r11", "memory");
    __asm__ volatile("syscall" ::"a"((long)SYS_exit_group), "D"(r == 0 ? 7L : 8L) : "rcx", "r11", "memory");
    __builtin_unreachable();
}
/* Linux writes to the area that libc registered whenever it has taken the processor away, and kills who has none. */
static void forget_rseq(void) {
    char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
    if (syscall(SYS_rseq, area, 32, 1 /* RSEQ_FLAG_UNREGISTER */, 0x53053053) < 0)
        syscall(SYS_rseq, area, __rseq_size, 1, 0x53053053);
}
TEST(a_process_may_unmap_everything_above_its_code) {
    /* stack, libraries and vDSO go; only system calls made from registers remain */
    unsigned long code_end = ((unsigned long)unmap_above_and_exit + 0x2000) & ~0xfffUL;
    pid_t pid = CHILD({
        signal(SIGSEGV, SIG_DFL);
        forget_rseq();
        unmap_above_and_exit(code_end, 0x7ffffffff000);
    });
    CHECK_EXIT(pid, 7);
    still_works();
}

TEST(a_process_may_unmap_everything_below_its_code) {
    unsigned long start = (unsigned long)unmap_above_and_exit & ~0xfffUL;
    pid_t pid = CHILD(unmap_above_and_exit(0x10000, start));
    CHECK_EXIT(pid, 7);
    still_works();
}

TEST(fixed_mappings_over_the_whole_range_never_reach_the_kernels_own_pages) {
    /* every gap-filling attempt either maps ordinary memory or is refused */
    for (unsigned long a = 0x7fff00000000; a < 0x800000000000; a += 0x4000000) {
        char *p = mmap((void *)a, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == MAP_FAILED) {
            CHECK(errno == EEXIST || errno == ENOMEM || errno == EPERM);
            continue;
        }
        CHECK(p == (char *)a && *p == 0);
        *p = 1;
        CHECK(munmap(p, 4096) == 0);
    }
    still_works();
}

static char shared_path[64] __attribute__((aligned(64)));
static void *flip_path(void *arg) {
    while (!done) {
        memcpy(shared_path, "allowed-file", 13);
        memcpy(shared_path, "missing-file", 13);
    }
    return arg;
}
TEST(a_path_that_changes_while_it_is_read_gives_one_or_the_other) {
    write_file("allowed-file", "yes");
    pthread_t t;
    pthread_create(&t, NULL, flip_path, NULL);
    for (int i = 0; i < 2000; i++) {
        int fd = open(shared_path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            CHECK_EQ(errno, ENOENT);
            continue;
        }
        char buf[4] = {0};
        CHECK(read(fd, buf, 3) == 3);
        CHECK_STR(buf, "yes");
        close(fd);
    }
    done = 1;
    pthread_join(t, NULL);
}

static struct iovec racing[2];
static void *flip_iovec(void *arg) {
    while (!done) {
        racing[1].iov_len = 1;
        racing[1].iov_len = (size_t)-1;
        racing[0].iov_base = (void *)0xffffffff81000000;
        racing[0].iov_base = arg;
    }
    return NULL;
}
TEST(an_iovec_that_changes_while_it_is_used_never_escapes) {
    char data[16] = "0123456789abcde";
    int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
    racing[0] = (struct iovec){data, 8};
    racing[1] = (struct iovec){data + 8, 1};
    pthread_t t;
    pthread_create(&t, NULL, flip_iovec, data);
    for (int i = 0; i < 2000; i++) {
        ssize_t n = writev(null, racing, 2);
        CHECK(n >= 0 || errno == EINVAL || errno == EFAULT);
        n = readv(zero, racing, 2);
        CHECK(n >= 0 || errno == EINVAL || errno == EFAULT);
        if (n > 9) break; /* a huge length was taken: Linux fills what is mapped, then EFAULT */
    }
    done = 1;
    pthread_join(t, NULL);
    still_works();
}

static void *unmap_and_map(void *arg) {
    char *page = arg;
    while (!done) {
        mprotect(page, 4096, PROT_NONE);
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
    }
    return NULL;
}
TEST(memory_that_comes_and_goes_during_calls) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t t;
    pthread_create(&t, NULL, unmap_and_map, page);
    int zero = open("/dev/zero", O_RDONLY);
    for (int i = 0; i < 1000; i++) {
        ssize_t n = read(zero, page, 4096);
        CHECK(n >= 0 || errno == EFAULT);
        struct stat st;
        CHECK(fstat(zero, (struct stat *)page) == 0 || errno == EFAULT);
        CHECK(fstat(zero, &st) == 0);
    }
    done = 1;
    pthread_join(t, NULL);
    still_works();
}

TEST(system_calls_with_random_arguments_do_no_harm) {
    /* numbers that cannot end, stop or block us; the seed is fixed */
    pid_t pid = CHILD({
        alarm(10);
        no_core();
        signal(SIGPIPE, SIG_IGN);
        static const int calls[] = {SYS_read, SYS_write, SYS_stat, SYS_fstat, SYS_lseek, SYS_mprotect, SYS_ioctl, SYS_pread64, SYS_readv,
                                    SYS_access, SYS_mremap, SYS_madvise, SYS_dup, SYS_getitimer, SYS_sendfile, SYS_socket, SYS_bind,
                                    SYS_fcntl, SYS_getdents64, SYS_readlink, SYS_getrlimit, SYS_capget, SYS_sigaltstack, SYS_statfs,
                                    SYS_prctl, SYS_futex, SYS_epoll_ctl, SYS_openat, SYS_newfstatat, SYS_splice, SYS_statx};
        unsigned long x = 88172645463325252UL;
        close(1);
        signal(SIGSEGV, SIG_DFL);
        for (int i = 0; i < 3000; i++) {
            long a[6];
            for (int k = 0; k < 6; k++) {
                x ^= x << 13, x ^= x >> 7, x ^= x << 17;
                a[k] = x & 1 ? (long)x : x & 2 ? (long)(x >> 60) : x & 4 ? (long)&a : (long)(x >> 32) & 0xfff;
            }
            int call = calls[(x >> 20) % (sizeof calls / sizeof *calls)];
            if (call == SYS_futex) a[1] = 1; /* wake only */
            if (call == SYS_read || call == SYS_readv || call == SYS_splice || call == SYS_sendfile) a[0] = 500 + (a[0] & 1);
            if (call == SYS_write) a[0] = -1;
            if (call == SYS_fcntl && (a[1] == 7 || a[1] == 38)) continue;
            syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
        }
    });
    int st;
    CHECK(waitpid(pid, &st, 0) == pid);
    CHECK((WIFEXITED(st) && WEXITSTATUS(st) == 0) || (WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV));
    still_works();
}

TEST(a_forged_sigreturn_frame_kills_only_its_maker) {
    no_core();
    pid_t pid = CHILD({
        char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(page, 0xff, 8192);
        __asm__ volatile("mov %0, %%rsp\n mov $15, %%eax\n syscall\n hlt" ::"r"(page + 4096) : "memory");
    });
    CHECK_KILLED(pid, SIGSEGV);
    pid = CHILD({
        __asm__ volatile("mov $8, %%rsp\n mov $15, %%eax\n syscall\n hlt" ::: "memory");
    });
    CHECK_KILLED(pid, SIGSEGV);
    still_works();
}

TEST(segment_registers_cannot_reach_elsewhere) {
    no_core();
    pid_t pid = CHILD({
        CHECK_ERR(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, 0x7ffffffff000), EPERM);
        volatile char c;
        // Whatever the base is, nothing is mapped so far from it.
        __asm__ volatile("movb %%gs:0x70000000, %0" : "=r"(c));
        _exit(9);
    });
    CHECK_KILLED(pid, SIGSEGV);
    still_works();
}

TEST(a_storm_of_short_lived_processes_and_signals) {
    handle_signal(SIGUSR1, SIG_IGN, 0);
    for (int round = 0; round < 20; round++) {
        pid_t pid[10];
        for (int i = 0; i < 10; i++)
            pid[i] = CHILD({
                for (int k = 0; k < 20; k++) kill(getppid(), SIGUSR1);
                if (i & 1) raise(SIGKILL);
            });
        for (int i = 0; i < 10; i++) kill(pid[i], SIGTERM);
        for (int i = 0; i < 10; i++) CHECK(waitpid(pid[i], NULL, 0) == pid[i]);
    }
    still_works();
}
