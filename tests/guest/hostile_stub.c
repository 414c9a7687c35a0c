/*
 * Attacks on what a sandbox may have put into a process's address space: code and memory
 * above the vDSO that no mapping of the program's accounts for. A process that jumps into
 * it, scribbles over it or leaves through it may only harm itself, and dies when told to.
 *
 * Nothing is known about what lies there: it is looked for. Where there is nothing (Linux)
 * the same attacks are made on thin air, or by the ordinary system call, with the same result.
 */
#include "check.h"
#include <setjmp.h>
#include <sys/auxv.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <ucontext.h>

#define PAGE 4096UL
#define TASK_END 0x7ffffffff000UL

static sigjmp_buf back;
static void escape(int sig) {
    (void)sig;
    siglongjmp(back, 1);
}
static bool readable(const volatile char *p) {
    if (sigsetjmp(back, 1)) return false;
    (void)*p;
    return true;
}
static bool writable(volatile char *p) {
    if (sigsetjmp(back, 1)) return false;
    *p = *p;
    return true;
}

/* What lies above the vDSO's own pages: up to 32 readable pages. */
static unsigned long found[32];
static int found_count;
static void look_for_foreign_pages(void) {
    handle_signal(SIGSEGV, escape, SA_NODEFER);
    handle_signal(SIGBUS, escape, SA_NODEFER);
    unsigned long vdso = getauxval(AT_SYSINFO_EHDR), last = 0;
    CHECK(vdso);
    read_file("/proc/self/maps");
    for (char *line = strtok(file_text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && end > last && end < TASK_END) last = end;
    }
    if (last < vdso + PAGE) last = vdso + PAGE;
    /* directly above, and then one page of every 256 KiB, and of every 64 where there is something: each look is a fault */
    for (unsigned long a = last; a < last + 64 * PAGE && found_count < 16; a += PAGE)
        if (readable((char *)a)) found[found_count++] = a;
    for (unsigned long step = 0x40000, a = (last + step - 1) & -step; a < TASK_END && a < last + (1UL << 30); a += step)
        for (unsigned long b = a; b < a + step && found_count < 32 && readable((char *)b); b += 0x10000) found[found_count++] = b;
}

static void still_works(void) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1 && read(p[0], &c, 1) == 1 && c == 'x');
    close(p[0]);
    close(p[1]);
    CHECK_EXIT(CHILD(_exit(3)), 3);
}

/* The child ends by itself within the time, or by SIGKILL after it. */
static int end_of(pid_t pid, int milliseconds) {
    int st;
    for (long long until = now_ns(CLOCK_MONOTONIC) + milliseconds * 1000000LL; now_ns(CLOCK_MONOTONIC) < until;) {
        int r = waitpid(pid, &st, WNOHANG);
        if (r == pid) return st;
        CHECK(r == 0);
        usleep(1000);
    }
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &st, 0) == pid);
    return st;
}

static void quiet_child(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGSYS, SIGFPE};
    for (int i = 0; i < 6; i++) signal(signals[i], SIG_DFL);
}

/* Any instruction of foreign code, with registers that look like what it expects. */
__attribute__((noinline)) static void jump(unsigned long to, unsigned long a, unsigned long b, void *stack) {
    __asm__ volatile("mov %0, %%r12\n mov %0, %%r13\n mov %1, %%r14\n mov %1, %%r15\n mov %1, %%rax\n mov %1, %%rbx\n"
                     "mov %0, %%rdi\n mov %0, %%rsi\n mov %2, %%rsp\n jmp *%3"
                     ::"c"(a), "d"(b), "r"(stack), "r"(to)
                     : "memory", "rax", "rbx", "rdi", "rsi", "r12", "r13", "r14", "r15");
    __builtin_unreachable();
}
TEST(jumps_into_code_that_is_not_the_programs_harm_only_the_jumper) {
    look_for_foreign_pages();
    unsigned long code = found_count ? found[0] : getauxval(AT_SYSINFO_EHDR) + (64UL << 20);
    char *stack = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static const unsigned long counts[] = {0, 1, 0x10000, 0x10001};
    /* every fourth byte, and all alignments in four rounds of different registers */
    for (unsigned long at = 0; at < 640; at += 4) {
        pid_t pid[4];
        for (int i = 0; i < 4; i++)
            pid[i] = CHILD({
                quiet_child();
                jump(code + at + i, (unsigned long)stack, counts[(at / 4 + i) % 4], stack + 8 * PAGE);
            });
        for (int i = 0; i < 4; i++) {
            int st = end_of(pid[i], 500);
            CHECK(WIFSIGNALED(st) || WIFEXITED(st));
        }
    }
    still_works();
}

/*
 * Threads of one child fill every foreign page they can write with commands to make a file,
 * to map and to fork, while others keep calling, mapping and forking.
 */
static volatile unsigned long *targets[32];
static int target_count;
static char forged_path[] = "made-by-a-forged-command";
static void *scribble(void *arg) {
    unsigned long words[7] = {SYS_creat, (unsigned long)forged_path, 0644, 0, 0, 0, 0};
    unsigned long x = 88172645463325252UL + (unsigned long)arg;
    for (;;)
        for (int t = 0; t < target_count; t++)
            for (unsigned i = 0; i < PAGE / 8; i++) {
                x ^= x << 13, x ^= x >> 7, x ^= x << 17;
                targets[t][i] = x % 3 ? words[i % 7] : x % 5 ? x : (unsigned long)&words;
            }
    return NULL;
}
/* More wait at the same time than a sandbox may treat alike. */
static void *wait_again_and_again(void *arg) {
    for (;;) poll(NULL, 0, 1);
    return arg;
}
TEST(memory_that_is_not_the_programs_may_be_overwritten_at_any_time) {
    look_for_foreign_pages();
    for (int i = 0; i < found_count; i++)
        if (writable((char *)found[i])) targets[target_count++] = (unsigned long *)found[i];
    for (int round = 0; round < 5; round++) {
        pid_t pid = CHILD({
            quiet_child();
            for (int i = 0; i < found_count; i++)
                if (writable((char *)found[i])) targets[target_count++ % 32] = (unsigned long *)found[i];
            if (target_count > 32) target_count = 32;
            quiet_child();
            pthread_t t[2];
            for (int i = 0; i < 30; i++) pthread_create(&t[0], NULL, wait_again_and_again, NULL);
            for (long i = 0; i < 2; i++) pthread_create(&t[i], NULL, scribble, (void *)(i + round));
            for (int i = 0; i < 300; i++) {
                char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (p != MAP_FAILED) munmap(p, PAGE);
                pid_t child = fork();
                if (child == 0) _exit(0);
                int st;
                if (child > 0) waitpid(child, &st, 0);
                raise(SIGWINCH);
            }
            _exit(0);
        });
        int st = end_of(pid, 3000);
        CHECK(WIFSIGNALED(st) || WIFEXITED(st));
    }
    CHECK_ERR(access(forged_path, F_OK), ENOENT);
    still_works();
}

/*
 * Whether the page is still the one that it was: half of what was not zero there is as it was, and not zeros as in new
 * memory. Not all, because it may be in use meanwhile: who lives there writes down what calls are made, and when.
 */
static bool is_same_page(const volatile char *page, const char *before) {
    int were = 0, are = 0;
    for (unsigned i = 0; i < PAGE; i++) {
        were += before[i] != 0;
        are += before[i] != 0 && page[i] == before[i];
    }
    return are * 2 >= were;
}

TEST(nothing_of_the_programs_can_be_put_where_it_is_not_allowed_to_be) {
    look_for_foreign_pages();
    for (int i = 0; i < found_count; i++) {
        char *at = (char *)found[i];
        char before[PAGE];
        memcpy(before, at, PAGE);
        CHECK(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
        CHECK(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at);
        CHECK(mprotect(at, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == -1);
        CHECK(mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED);
        CHECK(madvise(at, PAGE, MADV_DONTNEED) == -1);
        char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(own != MAP_FAILED);
        CHECK(mremap(own, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED);
        CHECK(shmat(0, at, 0) == (void *)-1);
        munmap(at, PAGE); /* may say that nothing is there */
        CHECK(readable(at) && is_same_page(at, before));
        munmap(own, PAGE);
    }
    still_works();
}

TEST(the_kernel_neither_reads_nor_writes_foreign_memory_for_the_program) {
    look_for_foreign_pages();
    int p[2], zero = open("/dev/zero", O_RDONLY);
    CHECK(pipe(p) == 0 && zero >= 0);
    for (int i = 0; i < found_count; i++) {
        CHECK_ERR(write(p[1], (void *)found[i], 8), EFAULT);
        CHECK_ERR(read(zero, (void *)found[i], 8), EFAULT);
    }
    /* nor by a transfer that is large enough to be made in another way, or one that only ends there */
    int file = open("large", O_RDWR | O_CREAT, 0600);
    size_t large = 1 << 17;
    CHECK(file >= 0 && ftruncate(file, large) == 0);
    for (int i = 0; i < found_count; i++)
        for (int round = 0; round < 3; round++) {
            char before[PAGE];
            memcpy(before, (void *)found[i], PAGE);
            CHECK_ERR(pread(file, (void *)found[i], large, 0), EFAULT);
            /* the memory below has to be free, for it may as well be the stack */
            char *below = (char *)found[i] + PAGE - large;
            if (mmap(below, large - PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == below) {
                CHECK(pread(file, below, large, 0) < (ssize_t)large);
                CHECK(munmap(below, large - PAGE) == 0);
            }
            CHECK(readable((char *)found[i]) && is_same_page((char *)found[i], before));
        }
    still_works();
}

/* The address of `mov $15, %eax; syscall` in foreign code; 0 if there is none. */
static unsigned long foreign_sigreturn(void) {
    static const unsigned char gate[] = {0xb8, 15, 0, 0, 0, 0x0f, 0x05};
    for (int i = 0; i < found_count; i++)
        for (unsigned long at = found[i]; at < found[i] + PAGE - sizeof gate; at++)
            if (!memcmp((void *)at, gate, sizeof gate)) return at;
    return 0;
}

/* Goes on at an endless loop that says so in *flag, with every signal blocked, without asking who may block what. */
__attribute__((noinline)) static void spin_masked(volatile int *flag) {
    extern char masked_loop[], own_gate[];
    static _Thread_local ucontext_t frame;
    memset(&frame, 0, sizeof frame);
    greg_t *regs = frame.uc_mcontext.gregs;
    regs[REG_RIP] = (greg_t)masked_loop;
    regs[REG_RBX] = (greg_t)flag;
    regs[REG_RSP] = (greg_t)&frame;
    regs[REG_EFL] = 0x202;
    regs[REG_CSGSFS] = 0x33 | 0x2bL << 48;
    memset(&frame.uc_sigmask, 0xff, 8);
    unsigned long gate = foreign_sigreturn();
    if (!gate) gate = (unsigned long)own_gate;
    __asm__ volatile("mov %0, %%rsp\n jmp *%1\n"
                     ".globl own_gate\nown_gate: mov $15, %%eax\n syscall\n ud2\n"
                     ".globl masked_loop\nmasked_loop: movl $1, (%%rbx)\n 1: pause\n jmp 1b\n"
                     ::"r"(&frame), "r"(gate)
                     : "memory", "rax");
    __builtin_unreachable();
}
static volatile int *shared_flag(void) {
    volatile int *flag = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(flag != MAP_FAILED);
    return flag;
}
static void wait_for_flag(volatile int *flag) {
    while (!*flag) usleep(1000);
}

TEST(a_process_that_masks_everything_behind_the_kernels_back_still_dies_of_sigkill) {
    look_for_foreign_pages();
    volatile int *flag = shared_flag();
    pid_t pid = CHILD(quiet_child(); spin_masked(flag));
    wait_for_flag(flag);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_KILLED(pid, SIGKILL);
    still_works();
}

static void *spin_in_thread(void *flag) {
    spin_masked(flag);
    return NULL;
}
/* Words of 8 bytes that are all ones, or what they were before, in the first lines of every foreign page. */
static void *forge_words(void *arg) {
    for (volatile unsigned long *words; ; )
        for (int i = 0; i < target_count; i++)
            for (words = targets[i] + 8; words < targets[i] + 16; words++) *words = arg ? ~0UL : *words ^ 1;
    return NULL;
}
TEST(whatever_a_process_writes_of_its_signal_mask_it_stops_and_dies_when_told_to) {
    look_for_foreign_pages();
    for (int i = 0; i < found_count; i++)
        if (writable((char *)found[i])) targets[target_count++] = (volatile unsigned long *)found[i];
    for (int round = 0; round < 6; round++) {
        pid_t pid = CHILD({
            quiet_child();
            unsigned long some = 1UL << (SIGUSR1 - 1), all = ~0UL;
            for (int i = 0; i < 300; i++) syscall(SYS_rt_sigprocmask, i & 1, &some, NULL, 8);
            pthread_t t;
            pthread_create(&t, NULL, forge_words, round & 1 ? &all : NULL);
            for (;;) {
                syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &some, 8);
                syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &all, &some, 8);
            }
        });
        int st;
        usleep(20000);
        /* What it overwrites may end it before that. */
        CHECK(kill(pid, SIGSTOP) == 0);
        CHECK(waitpid(pid, &st, WUNTRACED) == pid);
        if (!WIFSTOPPED(st)) {
            CHECK(WIFSIGNALED(st));
            continue;
        }
        CHECK(kill(pid, SIGUSR1) == 0 && kill(pid, SIGCONT) == 0);
        CHECK(kill(pid, SIGKILL) == 0);
        CHECK(waitpid(pid, &st, 0) == pid && WIFSIGNALED(st));
    }
    still_works();
}

TEST(a_process_with_such_a_thread_still_exits) {
    look_for_foreign_pages();
    volatile int *flag = shared_flag();
    pid_t pid = CHILD({
        quiet_child();
        pthread_t t;
        pthread_create(&t, NULL, spin_in_thread, (void *)flag);
        wait_for_flag(flag);
        _exit(9);
    });
    CHECK_EXIT(pid, 9);
    still_works();
}

TEST(an_execution_beside_such_a_thread_succeeds_or_kills_the_process) {
    look_for_foreign_pages();
    volatile int *flag = shared_flag();
    pid_t pid = CHILD({
        quiet_child();
        pthread_t t;
        pthread_create(&t, NULL, spin_in_thread, (void *)flag);
        wait_for_flag(flag);
        dup2(open("/dev/null", O_WRONLY), 1);
        execl("/proc/self/exe", "program", "--list", NULL);
    });
    int st;
    CHECK(waitpid(pid, &st, 0) == pid);
    CHECK((WIFEXITED(st) && WEXITSTATUS(st) == 0) || (WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL));
    still_works();
}

TEST(the_vsyscall_page_gives_the_time_or_a_signal) {
    pid_t pid = CHILD({
        quiet_child();
        long (*get_time)(long *) = (long (*)(long *))0xffffffffff600400;
        long got = get_time(NULL), now = time(NULL);
        _exit(got >= now - 2 && got <= now ? 7 : 8);
    });
    int st;
    CHECK(waitpid(pid, &st, 0) == pid);
    CHECK(WIFSIGNALED(st) || (WIFEXITED(st) && WEXITSTATUS(st) == 7));
    still_works();
}
