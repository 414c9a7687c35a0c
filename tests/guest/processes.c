/* Processes: fork, vfork, clone, clone3, wait, exit, sessions, process groups, prctl, pidfd. */
#include "check.h"
#include <linux/sched.h>
#include <sys/prctl.h>

TEST(fork_returns_zero_in_the_child_and_its_pid_in_the_parent) {
    pid_t parent = getpid();
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        pid_t me = getpid();
        CHECK(getppid() == parent);
        CHECK(write(p[1], &me, sizeof me) == sizeof me);
        _exit(0);
    }
    pid_t told;
    CHECK(read(p[0], &told, sizeof told) == sizeof told);
    CHECK_EQ(told, pid);
    CHECK_EXIT(pid, 0);
}

TEST(memory_after_fork_is_a_copy) {
    static int word = 1;
    char *heap = malloc(1 << 20);
    memset(heap, 'a', 1 << 20);
    pid_t pid = CHILD({
        word = 2;
        memset(heap, 'b', 1 << 20);
        CHECK(word == 2 && heap[12345] == 'b');
    });
    CHECK_EXIT(pid, 0);
    CHECK(word == 1);
    for (int i = 0; i < 1 << 20; i += 512) CHECK(heap[i] == 'a');
}

TEST(descriptor_offsets_are_shared_across_fork) {
    write_file("f", "abcdef");
    int fd = open("f", O_RDONLY);
    char c;
    pid_t pid = CHILD(CHECK(read(fd, &c, 1) == 1 && c == 'a'));
    CHECK_EXIT(pid, 0);
    CHECK(read(fd, &c, 1) == 1 && c == 'b');
}

TEST(wait_reports_exit_status_and_signals) {
    CHECK_EXIT(CHILD(_exit(42)), 42);
    CHECK_EXIT(CHILD(_exit(256 + 7)), 7);
    CHECK_KILLED(CHILD(raise(SIGKILL)), SIGKILL);
    CHECK_KILLED(CHILD(raise(SIGTERM)), SIGTERM);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    CHECK_KILLED(CHILD(abort()), SIGABRT);
    CHECK_ERR(waitpid(-1, NULL, 0), ECHILD);
}

TEST(wait_without_children_is_echild_and_wnohang_does_not_wait) {
    CHECK_ERR(wait(NULL), ECHILD);
    CHECK_ERR(waitpid(getpid(), NULL, 0), ECHILD);
    CHECK_ERR(waitpid(-1, NULL, 0x40000), EINVAL);
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        char c;
        close(p[1]);
        read(p[0], &c, 1);
    });
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    close(p[1]);
    CHECK_EXIT(pid, 0);
}

TEST(wait4_gives_the_usage_of_the_child) {
    pid_t pid = CHILD({
        long long until = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 30000000;
        while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < until) {}
    });
    struct rusage ru;
    memset(&ru, 0xff, sizeof ru);
    CHECK_EQ(wait4(pid, NULL, 0, &ru), pid);
    long us = (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
    CHECK(us >= 10000 && us < 10000000);
    CHECK(ru.ru_maxrss > 0);
}

TEST(waitid_fills_siginfo_and_wnowait_keeps_the_child) {
    pid_t pid = CHILD(_exit(9));
    siginfo_t si = {0};
    CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0);
    CHECK(si.si_pid == pid && si.si_code == CLD_EXITED && si.si_status == 9 && si.si_signo == SIGCHLD);
    CHECK(waitid(P_ALL, 0, &si, WEXITED) == 0);
    CHECK(si.si_pid == pid);
    CHECK_ERR(waitid(P_PID, pid, &si, WEXITED), ECHILD);
    CHECK_ERR(waitid(P_PID, pid, &si, 0), EINVAL);
}

TEST(stop_and_continue_are_reported) {
    pid_t pid = CHILD(for (;;) pause());
    int st;
    CHECK(kill(pid, SIGSTOP) == 0);
    CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid);
    CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
    CHECK_EQ(waitpid(pid, &st, WUNTRACED | WNOHANG), 0);
    CHECK(kill(pid, SIGCONT) == 0);
    CHECK_EQ(waitpid(pid, &st, WCONTINUED), pid);
    CHECK(WIFCONTINUED(st));
    CHECK(kill(pid, SIGSTOP) == 0);
    siginfo_t si = {0};
    CHECK(waitid(P_PID, pid, &si, WSTOPPED) == 0);
    CHECK(si.si_code == CLD_STOPPED && si.si_status == SIGSTOP);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(an_orphan_goes_to_the_subreaper) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int on = 0;
    CHECK(prctl(PR_GET_CHILD_SUBREAPER, &on) == 0 && on == 1);
    int p[2], q[2];
    CHECK(pipe(p) == 0 && pipe(q) == 0);
    pid_t me = getpid();
    pid_t middle = CHILD({
        pid_t grand = fork();
        if (grand == 0) {
            char c;
            CHECK(read(q[0], &c, 1) == 1); /* until the parent is gone */
            pid_t parent = getppid();
            CHECK(write(p[1], &parent, sizeof parent) == sizeof parent);
            _exit(5);
        }
    });
    CHECK_EXIT(middle, 0);
    CHECK(write(q[1], "x", 1) == 1);
    pid_t parent;
    CHECK(read(p[0], &parent, sizeof parent) == sizeof parent);
    CHECK_EQ(parent, me);
    int st;
    CHECK(wait(&st) > 0 && WEXITSTATUS(st) == 5);
}

TEST(ignoring_sigchld_reaps_children_by_itself) {
    signal(SIGCHLD, SIG_IGN);
    CHILD(_exit(1));
    CHILD(_exit(2));
    CHECK_ERR(wait(NULL), ECHILD);
}

TEST(a_killed_zombie_stays_waitable_and_its_pid_exists) {
    pid_t pid = CHILD(_exit(3));
    siginfo_t si;
    CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0);
    CHECK(kill(pid, 0) == 0);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_EXIT(pid, 3);
    CHECK_ERR(kill(pid, 0), ESRCH);
}

static volatile sig_atomic_t chld_count;
static siginfo_t chld_info;
static void on_chld(int sig, siginfo_t *si, void *uc) {
    (void)sig, (void)uc;
    chld_count++;
    chld_info = *si;
}
TEST(sigchld_carries_what_wait_would_tell) {
    struct sigaction sa = {.sa_sigaction = on_chld, .sa_flags = SA_SIGINFO};
    sigaction(SIGCHLD, &sa, NULL);
    sigset_t block = signal_set(SIGCHLD, 0), old;
    sigprocmask(SIG_BLOCK, &block, &old);
    pid_t pid = CHILD(_exit(11));
    while (!chld_count) sigsuspend(&old);
    CHECK(chld_info.si_pid == pid && chld_info.si_status == 11 && chld_info.si_code == CLD_EXITED);
    CHECK_EQ(chld_info.si_uid, getuid());
    CHECK_EXIT(pid, 11);
}

TEST(vfork_lets_the_parent_wait_until_the_child_exits) {
    static volatile int seen;
    pid_t pid = vfork();
    CHECK(pid >= 0);
    if (pid == 0) {
        seen = 7; /* same memory */
        _exit(4);
    }
    CHECK_EQ(seen, 7);
    CHECK_EXIT(pid, 4);
}

static int clone_body(void *arg) {
    *(volatile int *)arg = 99;
    return 13;
}
TEST(clone_with_clone_vm_shares_memory_and_uses_the_given_stack) {
    static char stack[65536] __attribute__((aligned(16)));
    volatile int word = 0;
    pid_t pid = clone(clone_body, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)&word);
    CHECK(pid > 0);
    CHECK_EXIT(pid, 13);
    CHECK_EQ(word, 99);
}

TEST(clone_without_exit_signal_needs_wclone) {
    static char stack[65536] __attribute__((aligned(16)));
    volatile int word = 0;
    pid_t pid = clone(clone_body, stack + sizeof stack, 0, (void *)&word);
    CHECK(pid > 0);
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
    int st;
    CHECK_EQ(waitpid(pid, &st, __WCLONE), pid);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 13);
    CHECK_EQ(word, 0);
}

static int close_three(void *fd) { return close(*(int *)fd) ? 1 : 0; }
TEST(clone_files_shares_the_descriptor_table) {
    static char stack[65536] __attribute__((aligned(16)));
    int fd = open("/dev/null", O_RDONLY);
    pid_t pid = clone(close_three, stack + sizeof stack, CLONE_FILES | SIGCHLD, &fd);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(fcntl(fd, F_GETFD), EBADF);
}

static int change_dir(void *arg) { return chdir(arg) ? 1 : (umask(077), 0); }
TEST(clone_fs_shares_directory_and_umask) {
    static char stack[65536] __attribute__((aligned(16)));
    umask(022);
    pid_t pid = clone(change_dir, stack + sizeof stack, CLONE_FS | SIGCHLD, "/proc");
    CHECK_EXIT(pid, 0);
    char cwd[100];
    CHECK(getcwd(cwd, sizeof cwd));
    CHECK_STR(cwd, "/proc");
    CHECK_EQ(umask(0), 077);
}

TEST(clone_refuses_contradictions) {
    CHECK_ERR(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0), EINVAL);
    struct clone_args bad = {.exit_signal = 100};
    CHECK_ERR(syscall(SYS_clone3, &bad, sizeof bad), EINVAL);
    CHECK_ERR(syscall(SYS_clone3, &bad, 8), EINVAL);
    CHECK_ERR(syscall(SYS_clone3, (void *)8, sizeof bad), EFAULT);
}

TEST(clone3_forks_and_gives_tids_and_a_pidfd) {
    int pidfd = -1;
    pid_t parent_tid = -1;
    static volatile pid_t child_tid = -1;
    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID,
        .pidfd = (uintptr_t)&pidfd,
        .parent_tid = (uintptr_t)&parent_tid,
        .child_tid = (uintptr_t)&child_tid,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    CHECK(pid >= 0);
    if (pid == 0) _exit(child_tid == getpid() ? 0 : 1);
    CHECK_EQ(parent_tid, pid);
    CHECK(pidfd >= 0 && (fcntl(pidfd, F_GETFD) & FD_CLOEXEC));
    struct pollfd pf = {pidfd, POLLIN, 0};
    CHECK_EQ(poll(&pf, 1, -1), 1);
    siginfo_t si = {0};
    CHECK(waitid(P_PIDFD, pidfd, &si, WEXITED) == 0);
    CHECK(si.si_pid == pid && si.si_status == 0);
}

TEST(pidfd_open_and_send_signal) {
    pid_t pid = CHILD(for (;;) pause());
    int fd = syscall(SYS_pidfd_open, pid, 0);
    CHECK(fd >= 0);
    struct pollfd pf = {fd, POLLIN, 0};
    CHECK_EQ(poll(&pf, 1, 0), 0);
    CHECK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) == 0);
    CHECK_KILLED(pid, SIGTERM);
    CHECK_ERR(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), ESRCH);
    CHECK_ERR(syscall(SYS_pidfd_open, -1, 0), EINVAL);
}

TEST(sessions_and_groups) {
    pid_t pid = CHILD({
        pid_t me = getpid();
        CHECK(setsid() == me);
        CHECK(getsid(0) == me && getpgrp() == me && getpgid(0) == me);
        CHECK_ERR(setsid(), EPERM);
        CHECK_ERR(setpgid(0, 0), EPERM); /* a session leader */
        int p[2];
        CHECK(pipe(p) == 0);
        char c;
        pid_t a = CHILD({ close(p[1]); read(p[0], &c, 1); });
        CHECK(getpgid(a) == me && getsid(a) == me);
        CHECK(setpgid(a, a) == 0 && getpgid(a) == a);
        pid_t b = CHILD({ close(p[1]); read(p[0], &c, 1); });
        CHECK(setpgid(b, a) == 0 && getpgid(b) == a);
        CHECK_ERR(setpgid(b, 1), EPERM);
        CHECK_ERR(setpgid(b, -5), EINVAL);
        close(p[1]);
        CHECK_EXIT(b, 0);
        CHECK_EXIT(a, 0);
        CHECK_ERR(getpgid(a), ESRCH);
    });
    CHECK_EXIT(pid, 0);
}

TEST(kill_reaches_a_whole_group_and_waitpid_selects_by_group) {
    pid_t a = CHILD({ setpgid(0, 0); for (;;) pause(); });
    setpgid(a, a);
    pid_t b = CHILD({ setpgid(0, a); for (;;) pause(); });
    setpgid(b, a);
    pid_t other = CHILD(_exit(0));
    CHECK(kill(-a, SIGTERM) == 0);
    int st;
    pid_t first = waitpid(-a, &st, 0);
    CHECK((first == a || first == b) && WTERMSIG(st) == SIGTERM);
    pid_t second = waitpid(-a, &st, 0);
    CHECK((second == a || second == b) && second != first);
    CHECK_ERR(waitpid(-a, &st, 0), ECHILD);
    CHECK_ERR(kill(-a, 0), ESRCH);
    CHECK_EXIT(other, 0);
}

TEST(parent_death_signal) {
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t middle = CHILD({
        pid_t grand = fork();
        if (grand == 0) {
            CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
            int sig = 0;
            CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == SIGUSR1);
            CHECK(write(p[1], "r", 1) == 1);
            for (;;) pause();
        }
        char c;
        CHECK(read(p[0], &c, 1) == 1);
    });
    CHECK_EXIT(middle, 0);
    int st;
    CHECK(wait(&st) > 0);
    CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGUSR1);
}

TEST(prctl_names_and_flags) {
    char name[17] = {0};
    CHECK(prctl(PR_SET_NAME, "a-name-that-is-far-too-long") == 0);
    CHECK(prctl(PR_GET_NAME, name) == 0);
    CHECK_STR(name, "a-name-that-is-");
    CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    CHECK_EQ(prctl(PR_GET_DUMPABLE), 0);
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    CHECK_ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    CHECK_ERR(prctl(12345, 0, 0, 0, 0), EINVAL);
}

TEST(exit_group_ends_every_thread) {
    pid_t pid = CHILD({
        pthread_t t;
        CHECK(pthread_create(&t, NULL, (void *(*)(void *))pause, NULL) == 0);
        syscall(SYS_exit_group, 21);
    });
    CHECK_EXIT(pid, 21);
}

static void *exit_later(void *main_tid) {
    wait_blocked((pid_t)(intptr_t)main_tid); /* gone or a zombie leader */
    exit(31);
}
TEST(the_process_lives_on_after_its_first_thread_exits) {
    pid_t pid = CHILD({
        pthread_t t;
        CHECK(pthread_create(&t, NULL, exit_later, (void *)(intptr_t)getpid()) == 0);
        syscall(SYS_exit, 0);
    });
    CHECK_EXIT(pid, 31);
}

TEST(many_forks_leave_nothing_behind) {
    for (int i = 0; i < 200; i++) CHECK_EXIT(CHILD(_exit(i & 0x7f)), i & 0x7f);
    CHECK_ERR(wait(NULL), ECHILD);
}

TEST(a_deep_tree_of_processes) {
    pid_t pid = CHILD({
        for (int depth = 0; depth < 20; depth++) {
            pid_t next = fork();
            CHECK(next >= 0);
            if (next) {
                CHECK_EXIT(next, depth == 19 ? 77 : 0);
                _exit(0);
            }
        }
        _exit(77);
    });
    CHECK_EXIT(pid, 0);
}

TEST(nproc_limit_stops_fork_for_an_ordinary_user) {
    pid_t pid = CHILD({
        CHECK(setresuid(54321, 54321, 54321) == 0);
        struct rlimit two = {2, 2};
        CHECK(setrlimit(RLIMIT_NPROC, &two) == 0);
        int p[2];
        CHECK(pipe(p) == 0);
        pid_t a = fork();
        if (a == 0) {
            char c;
            close(p[1]);
            read(p[0], &c, 1);
            _exit(0);
        }
        CHECK(a > 0);
        CHECK_ERR(fork(), EAGAIN);
        close(p[1]);
        CHECK_EXIT(a, 0);
    });
    CHECK_EXIT(pid, 0);
}
