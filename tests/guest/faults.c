/* Synchronous faults: what the handler is told, resuming after repair, single steps, bad instructions. */
#include "check.h"
#include <setjmp.h>
#include <ucontext.h>

static sigjmp_buf back;
static siginfo_t info;
static ucontext_t context;
static void escape(int sig, siginfo_t *si, void *uc) {
    (void)sig;
    info = *si;
    context = *(ucontext_t *)uc;
    siglongjmp(back, 1);
}
static void catch(int sig) {
    struct sigaction sa = {.sa_sigaction = escape, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(sig, &sa, NULL) == 0);
}
#define FAULTS(block)                                                                          \
    do {                                                                                       \
        if (sigsetjmp(back, 1) == 0) {                                                         \
            block;                                                                             \
            fail(__FILE__, __LINE__, "no fault in %s", #block);                                \
        }                                                                                      \
    } while (0)

TEST(reading_nowhere_is_segv_maperr_at_that_address) {
    catch(SIGSEGV);
    FAULTS(*(volatile char *)0x1234);
    CHECK(info.si_signo == SIGSEGV && info.si_code == SEGV_MAPERR && info.si_addr == (void *)0x1234);
    CHECK(context.uc_mcontext.gregs[REG_TRAPNO] == 14 && !(context.uc_mcontext.gregs[REG_ERR] & 2));
    FAULTS(*(volatile char *)0x1238 = 1);
    CHECK(context.uc_mcontext.gregs[REG_ERR] & 2);
}

TEST(writing_to_read_only_memory_is_segv_accerr) {
    catch(SIGSEGV);
    char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAULTS(p[100] = 1);
    CHECK(info.si_code == SEGV_ACCERR && info.si_addr == p + 100);
    CHECK(mprotect(p, 4096, PROT_NONE) == 0);
    FAULTS((void)*(volatile char *)p);
    CHECK(info.si_code == SEGV_ACCERR && info.si_addr == p);
}

TEST(a_non_canonical_address_is_a_general_protection_fault) {
    catch(SIGSEGV);
    FAULTS(*(volatile char *)0x8000123400000000);
    CHECK(info.si_code == SI_KERNEL && info.si_addr == NULL);
    CHECK_EQ(context.uc_mcontext.gregs[REG_TRAPNO], 13);
}

TEST(executing_data_faults_at_the_target) {
    catch(SIGSEGV);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = (char)0xc3;
    FAULTS(((void (*)(void))p)());
    CHECK(info.si_code == SEGV_ACCERR && info.si_addr == p);
    CHECK(context.uc_mcontext.gregs[REG_RIP] == (long)p);
    CHECK(mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0);
    ((void (*)(void))p)();
}

TEST(past_the_end_of_a_mapped_file_is_sigbus) {
    catch(SIGBUS);
    int fd = open("f", O_RDWR | O_CREAT, 0644);
    CHECK(ftruncate(fd, 100) == 0);
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p[4095] = 1;
    FAULTS(p[4096] = 1);
    CHECK(info.si_signo == SIGBUS && info.si_code == BUS_ADRERR && info.si_addr == p + 4096);
    CHECK(ftruncate(fd, 0) == 0);
    FAULTS((void)*(volatile char *)p);
    CHECK(info.si_addr == p);
}

TEST(divide_by_zero_is_sigfpe) {
    catch(SIGFPE);
    volatile int zero = 0, one = 1;
    FAULTS(one = one / zero);
    CHECK(info.si_code == FPE_INTDIV && info.si_addr == (void *)context.uc_mcontext.gregs[REG_RIP]);
}

TEST(an_undefined_instruction_is_sigill) {
    catch(SIGILL);
    FAULTS(__asm__ volatile("ud2"));
    CHECK(info.si_code == ILL_ILLOPN && info.si_addr == (void *)context.uc_mcontext.gregs[REG_RIP]);
}

TEST(privileged_instructions_fault) {
    catch(SIGSEGV);
    FAULTS(__asm__ volatile("hlt"));
    CHECK(info.si_code == SI_KERNEL);
    FAULTS(__asm__ volatile("cli"));
    FAULTS(__asm__ volatile("outb %al, $0x80"));
}

TEST(breakpoints_are_sigtrap) {
    catch(SIGTRAP);
    FAULTS(__asm__ volatile("int3"));
    CHECK_EQ(info.si_code, SI_KERNEL);
    FAULTS(__asm__ volatile("pushfq\n orq $0x100,(%rsp)\n popfq\n nop\n nop"));
    CHECK_EQ(info.si_code, TRAP_TRACE);
}

static volatile char *page;
static void make_writable(int sig, siginfo_t *si, void *uc) {
    (void)sig, (void)uc;
    info = *si;
    if (mprotect((void *)page, 4096, PROT_READ | PROT_WRITE)) _exit(77);
}
TEST(the_faulting_instruction_runs_again_after_repair) {
    struct sigaction sa = {.sa_sigaction = make_writable, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, NULL);
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[5] = 42;
    CHECK(page[5] == 42 && info.si_addr == page + 5);
    for (int i = 0; i < 50; i++) {
        CHECK(mprotect((void *)page, 4096, PROT_READ) == 0);
        page[i] = (char)i;
        CHECK(page[i] == i);
    }
}

static void skip(int sig, siginfo_t *si, void *uc) {
    (void)sig, (void)si;
    ((ucontext_t *)uc)->uc_mcontext.gregs[REG_RIP] += 2; /* ud2 */
    ((ucontext_t *)uc)->uc_mcontext.gregs[REG_RAX] = 99;
}
TEST(a_handler_may_skip_the_instruction) {
    struct sigaction sa = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &sa, NULL);
    long rax = 1;
    __asm__ volatile("ud2" : "+a"(rax));
    CHECK_EQ(rax, 99);
}

TEST(a_blocked_or_ignored_fault_kills_all_the_same) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    CHECK_KILLED(CHILD({ signal(SIGSEGV, SIG_IGN); *(volatile int *)4 = 1; }), SIGSEGV);
    CHECK_KILLED(CHILD({
        catch(SIGSEGV);
        sigset_t set = signal_set(SIGSEGV, 0);
        sigprocmask(SIG_BLOCK, &set, NULL);
        *(volatile int *)4 = 1;
    }), SIGSEGV);
}

static char alt[65536];
static __attribute__((noinline)) int recurse(volatile int depth) {
    volatile char big[4000];
    big[0] = (char)depth;
    return depth > 1 << 30 ? big[0] : recurse(depth + 1) + big[0];
}
TEST(stack_overflow_is_handled_on_the_alternate_stack) {
    struct rlimit small = {1 << 20, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_STACK, &small) == 0);
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    CHECK(sigaltstack(&ss, NULL) == 0);
    struct sigaction sa = {.sa_sigaction = escape, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &sa, NULL);
    FAULTS(recurse(0));
    char here;
    CHECK((char *)info.si_addr < &here);
    CHECK(&here - (char *)info.si_addr < 3 << 20);
}

/* Lowest address of the main stack's mapping. */
static unsigned long stack_start(void) {
    char line[300];
    unsigned long start = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    CHECK(f);
    while (fgets(line, sizeof line, f))
        if (strstr(line, "[stack]")) start = strtoul(line, NULL, 16);
    fclose(f);
    return start;
}

TEST(what_was_stored_in_the_stack_stays_when_the_limit_shrinks) {
    char *here = __builtin_frame_address(0);
    volatile char *deep = here - (3 << 20);
    *deep = 42;
    struct rlimit limit = {1 << 20, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    CHECK_EQ(*deep, 42);
    CHECK((unsigned long)here - stack_start() < 4UL << 20);
    /* A child has the limit, and its own memory. */
    CHECK_KILLED(CHILD(*(volatile char *)(here - (5 << 20)) = 1), SIGSEGV);
    limit.rlim_cur = 8 << 20;
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    volatile char *deeper = here - (6 << 20);
    *deeper = 43;
    CHECK(*deeper == 43 && *deep == 42);
    limit.rlim_cur = 32 << 20;
    CHECK(prlimit(0, RLIMIT_STACK, &limit, NULL) == 0);
    deeper = here - (24 << 20);
    *deeper = 44;
    CHECK(*deeper == 44 && *deep == 42);
}

TEST(a_vfork_child_with_a_small_stack_leaves_its_parents_alone) {
    struct rlimit small = {1 << 20, RLIM_INFINITY};
    volatile char *deep = (volatile char *)__builtin_frame_address(0) - (4 << 20);
    int status;
    pid_t pid = vfork();
    if (pid == 0) {
        setrlimit(RLIMIT_STACK, &small);
        _exit(7);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    *deep = 1;
    CHECK_EQ(*deep, 1);
}

TEST(the_stack_grows_by_itself_up_to_its_limit) {
    volatile char *low = (volatile char *)__builtin_frame_address(0) - (4 << 20);
    *low = 1; /* Linux allows access anywhere above the limit */
    CHECK(*low == 1);
}

TEST(system_calls_with_bad_pointers_give_efault_not_signals) {
    catch(SIGSEGV);
    int fd = open("/dev/zero", O_RDWR);
    CHECK_ERR(read(fd, (void *)0x1000, 10), EFAULT);
    CHECK_ERR(stat((char *)0x1000, &(struct stat){0}), EFAULT);
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(p + 4096, 4096);
    memset(p, 'x', 4096);
    CHECK_ERR(open(p + 4000, O_RDONLY), EFAULT);
    int q[2];
    CHECK(pipe(q) == 0);
    CHECK_EQ(write(q[1], "0123456789", 10), 10);
    CHECK_ERR(read(q[0], (void *)0xffff800000000000, 10), EFAULT);
    CHECK_EQ(read(fd, p + 4090, 6), 6);
    CHECK_EQ(write(q[1], p + 4090, 6), 6);
}
