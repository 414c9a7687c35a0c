/* Signals: handlers, masks, alternate stacks, restarts, queues, waiting, siginfo, vector state. */
#include "check.h"
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <immintrin.h>

static volatile sig_atomic_t count, last;
static void note(int sig) {
    count++;
    last = sig;
}
static volatile siginfo_t info; /* raise() is a leaf: without volatile the compiler assumes no handler ran */
static void note_info(int sig, siginfo_t *si, void *uc) {
    (void)uc;
    count++;
    last = sig;
    info = *si;
}
static void handle_info(int sig, int flags) {
    struct sigaction sa = {.sa_sigaction = note_info, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(sig, &sa, NULL) == 0);
}

TEST(a_handler_runs_and_execution_goes_on) {
    handle_signal(SIGUSR1, note, 0);
    for (int i = 0; i < 100; i++) CHECK(raise(SIGUSR1) == 0);
    CHECK_EQ(count, 100);
    CHECK_EQ(last, SIGUSR1);
}

TEST(default_actions) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    static const int fatal[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGUSR1,
                                SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGXCPU, SIGSYS, SIGIO, SIGVTALRM};
    for (unsigned i = 0; i < sizeof fatal / sizeof *fatal; i++) CHECK_KILLED(CHILD(raise(fatal[i])), fatal[i]);
    CHECK_KILLED(CHILD(raise(SIGRTMIN)), SIGRTMIN);
    static const int ignored[] = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT};
    for (unsigned i = 0; i < sizeof ignored / sizeof *ignored; i++) CHECK_EXIT(CHILD(raise(ignored[i])), 0);
}

TEST(kill_and_stop_cannot_be_handled) {
    struct sigaction sa = {.sa_handler = note};
    CHECK_ERR(sigaction(SIGKILL, &sa, NULL), EINVAL);
    CHECK_ERR(sigaction(SIGSTOP, &sa, NULL), EINVAL);
    CHECK_ERR(sigaction(65, &sa, NULL), EINVAL);
    CHECK_ERR(kill(getpid(), 65), EINVAL);
    CHECK_ERR(kill(999999, SIGTERM), ESRCH);
}

TEST(blocked_signals_wait_and_standard_ones_merge) {
    handle_signal(SIGUSR1, note, 0);
    sigset_t set = signal_set(SIGUSR1, 0), pending;
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    kill(getpid(), SIGUSR1);
    raise(SIGUSR1);
    CHECK_EQ(count, 0);
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGUSR1) && !sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(count == 1 || count == 2); /* one for the thread, one for the process */
    sigpending(&pending);
    CHECK(!sigismember(&pending, SIGUSR1));
}

static volatile int order[16], ordered;
static void note_order(int sig, siginfo_t *si, void *uc) {
    (void)uc;
    order[ordered++] = sig * 100 + si->si_value.sival_int;
}
TEST(realtime_signals_queue_in_order_with_values) {
    struct sigaction sa = {.sa_sigaction = note_order, .sa_flags = SA_SIGINFO};
    sigfillset(&sa.sa_mask);
    sigaction(SIGRTMIN, &sa, NULL);
    sigaction(SIGRTMIN + 1, &sa, NULL);
    sigset_t set = signal_set(SIGRTMIN, SIGRTMIN + 1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 9}) == 0);
    for (int i = 1; i <= 5; i++) CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i}) == 0);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK_EQ(ordered, 6);
    for (int i = 0; i < 5; i++) CHECK_EQ(order[i], SIGRTMIN * 100 + i + 1);
    CHECK_EQ(order[5], (SIGRTMIN + 1) * 100 + 9);
}

TEST(the_queue_has_a_limit) {
    struct rlimit ten = {10, 10};
    CHECK(setrlimit(RLIMIT_SIGPENDING, &ten) == 0);
    CHECK(setresuid(54322, 54322, 54322) == 0);
    sigset_t set = signal_set(SIGRTMIN, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int n = 0;
    while (n < 100 && sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0) n++;
    CHECK(errno == EAGAIN);
    CHECK_EQ(n, 10);
}

TEST(siginfo_of_kill_sigqueue_and_tgkill) {
    handle_info(SIGUSR1, 0);
    kill(getpid(), SIGUSR1);
    CHECK(info.si_code == SI_USER && info.si_pid == getpid() && info.si_uid == getuid() && info.si_signo == SIGUSR1);
    sigqueue(getpid(), SIGUSR1, (union sigval){.sival_ptr = (void *)0x123456789});
    CHECK(info.si_code == SI_QUEUE && info.si_value.sival_ptr == (void *)0x123456789);
    syscall(SYS_tgkill, getpid(), my_tid(), SIGUSR1);
    CHECK(info.si_code == SI_TKILL && info.si_pid == getpid());
    siginfo_t forged = {.si_signo = SIGUSR1, .si_code = SI_USER};
    pid_t parent = getppid();
    CHECK_ERR(syscall(SYS_rt_sigqueueinfo, parent, 0, &forged), EPERM);
}

TEST(the_mask_during_a_handler) {
    struct sigaction sa = {.sa_handler = note};
    sigaddset(&sa.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &sa, NULL);
    sigset_t before, after;
    sigprocmask(SIG_BLOCK, NULL, &before);
    raise(SIGUSR1);
    sigprocmask(SIG_BLOCK, NULL, &after);
    CHECK(!memcmp(&before, &after, 8));
}

static volatile sigset_t mask_inside;
static void read_mask(int sig) {
    (void)sig;
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    mask_inside = now;
}
TEST(sa_mask_and_sa_nodefer) {
    struct sigaction sa = {.sa_handler = read_mask};
    sigaddset(&sa.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &sa, NULL);
    raise(SIGUSR1);
    CHECK(sigismember((sigset_t *)&mask_inside, SIGUSR1) && sigismember((sigset_t *)&mask_inside, SIGUSR2));
    sa.sa_flags = SA_NODEFER;
    sigaction(SIGUSR1, &sa, NULL);
    raise(SIGUSR1);
    CHECK(!sigismember((sigset_t *)&mask_inside, SIGUSR1) && sigismember((sigset_t *)&mask_inside, SIGUSR2));
}

TEST(sa_resethand_handles_once) {
    pid_t pid = CHILD({
        handle_signal(SIGUSR1, note, SA_RESETHAND);
        raise(SIGUSR1);
        CHECK(count == 1);
        raise(SIGUSR1);
    });
    CHECK_KILLED(pid, SIGUSR1);
}

static char alt_stack[65536];
static volatile int on_alt;
static void look_at_stack(int sig) {
    char here;
    (void)sig;
    on_alt = &here >= alt_stack && &here < alt_stack + sizeof alt_stack;
    stack_t now;
    sigaltstack(NULL, &now);
    if (on_alt && !(now.ss_flags & SS_ONSTACK)) on_alt = 2;
    if (on_alt) CHECK_ERR(sigaltstack(&(stack_t){.ss_sp = alt_stack, .ss_size = 40000}, NULL), EPERM);
}
TEST(the_alternate_stack) {
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack}, old;
    CHECK(sigaltstack(&ss, &old) == 0);
    CHECK(old.ss_flags & SS_DISABLE);
    handle_signal(SIGUSR1, look_at_stack, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK_EQ(on_alt, 1);
    handle_signal(SIGUSR1, look_at_stack, 0);
    raise(SIGUSR1);
    CHECK_EQ(on_alt, 0);
    sigaltstack(NULL, &old);
    CHECK(old.ss_sp == alt_stack && old.ss_size == sizeof alt_stack && !(old.ss_flags & SS_DISABLE));
    ss.ss_size = 100;
    CHECK_ERR(sigaltstack(&ss, NULL), ENOMEM);
    ss.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&ss, NULL) == 0);
}

/* A child sends `sig` to us once this thread sleeps. */
static pid_t signal_me_when_blocked(int sig) {
    pid_t me = getpid(), tid = my_tid();
    return CHILD({
        wait_blocked(tid);
        kill(me, sig);
    });
}

TEST(a_slow_read_returns_eintr_without_sa_restart) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    handle_signal(SIGUSR1, note, 0);
    pid_t pid = signal_me_when_blocked(SIGUSR1);
    CHECK_ERR(read(p[0], &c, 1), EINTR);
    CHECK_EQ(count, 1);
    CHECK_EXIT(pid, 0);
}

TEST(a_slow_read_restarts_with_sa_restart) {
    int p[2];
    char c = 0;
    CHECK(pipe(p) == 0);
    handle_signal(SIGUSR1, note, SA_RESTART);
    pid_t me = getpid();
    pid_t pid = CHILD({
        wait_blocked(me);
        kill(me, SIGUSR1);
        wait_blocked(me);
        write(p[1], "z", 1);
    });
    CHECK_EQ(read(p[0], &c, 1), 1);
    CHECK(c == 'z' && count == 1);
    CHECK_EXIT(pid, 0);
}

TEST(an_ignored_signal_does_not_interrupt) {
    int p[2];
    char c = 0;
    CHECK(pipe(p) == 0);
    signal(SIGUSR1, SIG_IGN);
    pid_t me = getpid();
    pid_t pid = CHILD({
        wait_blocked(me);
        kill(me, SIGUSR1);
        kill(me, SIGWINCH);
        wait_blocked(me);
        write(p[1], "z", 1);
    });
    CHECK_EQ(read(p[0], &c, 1), 1);
    CHECK_EXIT(pid, 0);
}

TEST(poll_and_pause_and_epoll_never_restart) {
    handle_signal(SIGUSR1, note, SA_RESTART);
    pid_t pid = signal_me_when_blocked(SIGUSR1);
    CHECK_ERR(poll(NULL, 0, -1), EINTR);
    CHECK_EXIT(pid, 0);
    pid = signal_me_when_blocked(SIGUSR1);
    CHECK_ERR(pause(), EINTR);
    CHECK_EXIT(pid, 0);
    pid = signal_me_when_blocked(SIGUSR1);
    CHECK_ERR(select(0, NULL, NULL, NULL, NULL), EINTR);
    CHECK_EXIT(pid, 0);
}

TEST(nanosleep_reports_what_is_left) {
    handle_signal(SIGUSR1, note, SA_RESTART);
    pid_t pid = signal_me_when_blocked(SIGUSR1);
    struct timespec want = {10, 0}, left = {0, 0};
    CHECK_ERR(nanosleep(&want, &left), EINTR);
    CHECK(left.tv_sec >= 5 && left.tv_sec < 10);
    CHECK_EXIT(pid, 0);
}

TEST(a_stopped_sleep_goes_on_after_sigcont) {
    pid_t pid = CHILD({
        struct timespec want = {0, 60000000};
        long long start = now_ns(CLOCK_MONOTONIC);
        CHECK(nanosleep(&want, NULL) == 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - start >= 59000000);
    });
    wait_blocked(pid);
    kill(pid, SIGSTOP);
    int st;
    CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid);
    CHECK(WIFSTOPPED(st));
    kill(pid, SIGCONT);
    CHECK_EXIT(pid, 0);
}

TEST(sigsuspend_waits_with_another_mask_and_puts_it_back) {
    handle_signal(SIGUSR1, note, 0);
    sigset_t set = signal_set(SIGUSR1, 0), empty = signal_set(0), now;
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    CHECK_EQ(count, 0);
    CHECK_ERR(sigsuspend(&empty), EINTR);
    CHECK_EQ(count, 1);
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1));
}

TEST(sigtimedwait_takes_a_pending_signal) {
    sigset_t set = signal_set(SIGUSR1, SIGRTMIN, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    siginfo_t si;
    struct timespec none = {0, 0}, some = {0, 20000000};
    CHECK_ERR(sigtimedwait(&set, &si, &none), EAGAIN);
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(sigtimedwait(&set, &si, &some), EAGAIN);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 19000000);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 5});
    raise(SIGUSR1);
    CHECK_EQ(sigtimedwait(&set, &si, NULL), SIGUSR1);
    CHECK_EQ(sigwaitinfo(&set, &si), SIGRTMIN);
    CHECK_EQ(si.si_value.sival_int, 5);
    pid_t pid = signal_me_when_blocked(SIGUSR1);
    int sig;
    CHECK(sigwait(&set, &sig) == 0 && sig == SIGUSR1);
    CHECK_EXIT(pid, 0);
}

TEST(a_handler_for_another_signal_interrupts_sigtimedwait) {
    handle_signal(SIGUSR2, note, SA_RESTART);
    sigset_t set = signal_set(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t pid = signal_me_when_blocked(SIGUSR2);
    CHECK_ERR(sigwaitinfo(&set, NULL), EINTR);
    CHECK_EXIT(pid, 0);
}

static void nest(int sig) {
    count++;
    if (count < 30) raise(sig);
}
TEST(handlers_nest) {
    handle_signal(SIGUSR1, nest, SA_NODEFER);
    raise(SIGUSR1);
    CHECK_EQ(count, 30);
}

TEST(many_pending_handlers_run_before_the_call_returns) {
    for (int i = 0; i < 10; i++) handle_signal(SIGRTMIN + i, note, 0);
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    for (int i = 0; i < 10; i++) raise(SIGRTMIN + i);
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK_EQ(count, 10);
}

static void change_registers(int sig, siginfo_t *si, void *context) {
    (void)sig, (void)si;
    ucontext_t *uc = context;
    uc->uc_mcontext.gregs[REG_R12] = 0x1122334455667788;
    sigaddset(&uc->uc_sigmask, SIGUSR2);
}
TEST(a_handler_may_change_registers_and_mask_of_the_interrupted_code) {
    struct sigaction sa = {.sa_sigaction = change_registers, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &sa, NULL);
    unsigned long r12;
    long result;
    __asm__ volatile("mov $1, %%r12\n syscall\n mov %%r12, %1"
                     : "=a"(result), "=r"(r12)
                     : "0"((long)SYS_tgkill), "D"((long)getpid()), "S"((long)my_tid()), "d"((long)SIGUSR1)
                     : "r12", "rcx", "r11", "memory");
    CHECK_EQ(result, 0);
    CHECK(r12 == 0x1122334455667788);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR2));
}

static void clobber_vectors(int sig) {
    (void)sig;
    count++;
    __asm__ volatile("pcmpeqd %%xmm0,%%xmm0\n pcmpeqd %%xmm7,%%xmm7\n pcmpeqd %%xmm15,%%xmm15\n fninit" ::: "xmm0", "xmm7", "xmm15");
    if (__builtin_cpu_supports("avx")) __asm__ volatile(".byte 0xc5,0xfc,0x77" ::: "memory"); /* vzeroall */
}
TEST(vector_and_x87_state_survive_a_handler) {
    handle_signal(SIGUSR1, clobber_vectors, 0);
    char in[16] __attribute__((aligned(16))) = "0123456789abcde", out[3][16] __attribute__((aligned(16)));
    unsigned short cw_before = 0x027f, cw_after = 0;
    double x87 = 0;
    long result;
    __asm__ volatile("fldcw %[cwb]\n fldpi\n movdqa %[in], %%xmm0\n movdqa %[in], %%xmm7\n movdqa %[in], %%xmm15\n"
                     "syscall\n"
                     "movdqa %%xmm0, %[o0]\n movdqa %%xmm7, %[o1]\n movdqa %%xmm15, %[o2]\n fstpl %[x87]\n fnstcw %[cwa]\n"
                     : "=a"(result), [o0] "=m"(out[0]), [o1] "=m"(out[1]), [o2] "=m"(out[2]), [x87] "=m"(x87),
                       [cwa] "=m"(cw_after)
                     : "0"((long)SYS_tgkill), "D"((long)getpid()), "S"((long)my_tid()), "d"((long)SIGUSR1),
                       [in] "m"(in), [cwb] "m"(cw_before)
                     : "rcx", "r11", "memory", "xmm0", "xmm7", "xmm15");
    CHECK_EQ(result, 0);
    CHECK_EQ(count, 1);
    for (int i = 0; i < 3; i++) CHECK(!memcmp(out[i], in, 16));
    CHECK(x87 > 3.14159 && x87 < 3.1416);
    CHECK_EQ(cw_after, cw_before);
}

__attribute__((target("avx"))) static bool upper_halves_survive(void) {
    float in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8];
    long result;
    __asm__ volatile("vmovups %[in], %%ymm9\n syscall\n vmovups %%ymm9, %[out]\n vzeroupper"
                     : "=a"(result), [out] "=m"(out)
                     : "0"((long)SYS_tgkill), "D"((long)getpid()), "S"((long)my_tid()), "d"((long)SIGUSR1), [in] "m"(in)
                     : "rcx", "r11", "memory", "xmm9");
    return result == 0 && !memcmp(in, out, sizeof in);
}
TEST(avx_state_survives_a_handler) {
    if (!__builtin_cpu_supports("avx")) return;
    handle_signal(SIGUSR1, clobber_vectors, 0);
    CHECK(upper_halves_survive());
    CHECK_EQ(count, 1);
}

static void jump_out(int sig) {
    (void)sig;
    count++;
}
TEST(an_asynchronous_signal_interrupts_a_computing_thread) {
    handle_signal(SIGALRM, jump_out, 0);
    struct itimerval it = {{0, 5000}, {0, 5000}};
    CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
    unsigned long x = 1, y = 1;
    for (unsigned long i = 0; count < 20; i++) {
        x = x * 6364136223846793005 + 1442695040888963407;
        y = y * 6364136223846793005 + 1442695040888963407;
        if (x != y) break;
    }
    CHECK(x == y);
    CHECK(count >= 20);
}

TEST(a_spinning_process_can_be_killed) {
    pid_t pid = CHILD(for (volatile int i = 0;; i++){});
    struct timespec ms = {0, 1000000};
    for (int i = 0; i < 2000 && thread_state(pid) != 'R'; i++) nanosleep(&ms, NULL);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(a_blocked_signal_is_inherited_but_pending_ones_are_not) {
    sigset_t set = signal_set(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    pid_t pid = CHILD({
        sigset_t now;
        sigpending(&now);
        CHECK(!sigismember(&now, SIGUSR1));
        sigprocmask(SIG_BLOCK, NULL, &now);
        CHECK(sigismember(&now, SIGUSR1));
    });
    CHECK_EXIT(pid, 0);
}

TEST(bad_frames_and_arguments) {
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, 77, &(sigset_t){0}, NULL, 8), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)8, NULL, 8), EFAULT);
    /* no room for the frame: killed by SIGSEGV */
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    pid_t pid = CHILD({
        handle_signal(SIGUSR1, note, 0);
        __asm__ volatile("mov $64, %%rsp\n syscall\n hlt" ::"a"((long)SYS_tgkill), "D"((long)getpid()), "S"((long)my_tid()),
                         "d"((long)SIGUSR1)
                         : "memory");
    });
    CHECK_KILLED(pid, SIGSEGV);
}

TEST(sending_needs_permission) {
    pid_t victim = CHILD(for (;;) pause());
    pid_t pid = CHILD({
        CHECK(setresuid(54321, 54321, 54321) == 0);
        CHECK_ERR(kill(victim, SIGTERM), EPERM);
        CHECK_ERR(kill(victim, 0), EPERM);
    });
    CHECK_EXIT(pid, 0);
    kill(victim, SIGKILL);
    CHECK_KILLED(victim, SIGKILL);
}
