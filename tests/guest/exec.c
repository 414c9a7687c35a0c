/* execve and friends: argument passing, interpreters, what survives and what does not, auxv. */
#define HAVE_ROLES
#include "check.h"
#include <elf.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>

extern char **environ;

static int play_role(int argc, char **argv) {
    if (!strcmp(argv[0], "exit")) return atoi(argv[1]);
    if (!strcmp(argv[0], "args")) {
        for (int i = 1; i < argc; i++) dprintf(1, "[%s]", argv[i]);
        for (char **e = environ; *e; e++) dprintf(1, "{%s}", *e);
        return 0;
    }
    if (!strcmp(argv[0], "fd")) return fcntl(atoi(argv[1]), F_GETFD) < 0 ? 1 : 0;
    if (!strcmp(argv[0], "signals")) {
        struct sigaction usr1, usr2;
        sigset_t mask, pending;
        sigaction(SIGUSR1, NULL, &usr1);
        sigaction(SIGUSR2, NULL, &usr2);
        sigprocmask(SIG_BLOCK, NULL, &mask);
        sigpending(&pending);
        stack_t alt;
        sigaltstack(NULL, &alt);
        return (usr1.sa_handler == SIG_DFL) | (usr2.sa_handler == SIG_IGN) << 1 | sigismember(&mask, SIGHUP) << 2 |
               sigismember(&pending, SIGHUP) << 3 | ((alt.ss_flags & SS_DISABLE) != 0) << 4;
    }
    if (!strcmp(argv[0], "pids")) {
        dprintf(1, "%d %d %d", getpid(), getppid(), my_tid());
        return 0;
    }
    if (!strcmp(argv[0], "count")) {
        dprintf(1, "%d", argc);
        return 0;
    }
    if (!strcmp(argv[0], "name")) {
        char name[17] = {0};
        prctl(PR_GET_NAME, name);
        dprintf(1, "%s", name);
        return 0;
    }
    return 100;
}

#define SELF "/proc/self/exe"

/* Runs an exec in a child and gives what it printed. */
static char output[1 << 16];
static int run_exec(const char *path, char *const argv[], char *const envp[]) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(p[1], 1);
        close(p[0]);
        close(p[1]);
        execve(path, argv, envp);
        _exit(errno);
    }
    close(p[1]);
    size_t total = 0;
    ssize_t n;
    while ((n = read(p[0], output + total, sizeof output - 1 - total)) > 0) total += n;
    output[total] = 0;
    close(p[0]);
    int st;
    CHECK(waitpid(pid, &st, 0) == pid);
    CHECK(WIFEXITED(st));
    return WEXITSTATUS(st);
}
#define ARGS(...) ((char *[]){__VA_ARGS__, NULL})
#define NO_ENV ((char *[]){NULL})

/* A name for this very program that can be exec'd from scripts and after chdir. */
static const char *self_path(void) {
    static char path[PATH_MAX];
    ssize_t n = readlink(SELF, path, sizeof path - 1);
    CHECK(n > 0);
    path[n] = 0;
    return path;
}

TEST(arguments_and_environment_arrive_unchanged) {
    CHECK_EQ(run_exec(SELF, ARGS("x", "--role", "args", "", "a b", "\xff\x01"), ((char *[]){"A=1", "odd", "", NULL})), 0);
    CHECK_STR(output, "[][a b][\xff\x01]{A=1}{odd}{}");
}

TEST(exit_status_of_the_new_program) { CHECK_EQ(run_exec(SELF, ARGS("x", "--role", "exit", "37"), NO_ENV), 37); }

TEST(errors_of_execve) {
    CHECK_ERR(execve("missing", ARGS("x"), NO_ENV), ENOENT);
    CHECK_ERR(execve("", ARGS("x"), NO_ENV), ENOENT);
    CHECK_ERR(execve("/", ARGS("x"), NO_ENV), EACCES);
    write_file("plain", "#!/bin/sh\n");
    CHECK_ERR(execve("plain", ARGS("x"), NO_ENV), EACCES);
    CHECK_ERR(execve("plain/x", ARGS("x"), NO_ENV), ENOTDIR);
    write_file("junk", "\x7f""ELF but not really");
    chmod("junk", 0755);
    CHECK_ERR(execve("junk", ARGS("x"), NO_ENV), ENOEXEC);
    write_file("text", "echo no interpreter line\n");
    chmod("text", 0755);
    CHECK_ERR(execve("text", ARGS("x"), NO_ENV), ENOEXEC);
    write_file("empty", "");
    chmod("empty", 0755);
    CHECK_ERR(execve("empty", ARGS("x"), NO_ENV), ENOEXEC);
    write_file("lost", "#!/no/such/interpreter\n");
    chmod("lost", 0755);
    CHECK_ERR(execve("lost", ARGS("x"), NO_ENV), ENOENT);
    CHECK(symlink("loop", "loop") == 0);
    CHECK_ERR(execve("loop", ARGS("x"), NO_ENV), ELOOP);
    CHECK_ERR(execve((char *)8, ARGS("x"), NO_ENV), EFAULT);
    CHECK_ERR(execve(SELF, (char **)8, NO_ENV), EFAULT);
}

TEST(an_interpreter_line_gets_one_optional_argument) {
    char text[PATH_MAX + 50];
    snprintf(text, sizeof text, "#!%s --role args\n", self_path());
    write_file("script", text);
    chmod("script", 0755);
    /* the kernel passes "--role args" as one word, so the role is not found: usage, status 2 */
    CHECK_EQ(run_exec("./script", ARGS("x"), NO_ENV), 2);
    write_file("sh", "#!/bin/sh -e\necho \"$0 $1 $#\"\nfalse\necho unreachable\n");
    chmod("sh", 0755);
    CHECK_EQ(run_exec("./sh", ARGS("zero", "one", "two"), NO_ENV), 1);
    CHECK_STR(output, "./sh one 2\n");
}

TEST(interpreters_nest_but_not_for_ever) {
    write_file("a", "#!/bin/sh\necho a\n");
    chmod("a", 0755);
    char cwd[200], text[300];
    CHECK(getcwd(cwd, sizeof cwd));
    snprintf(text, sizeof text, "#!%s/a\n", cwd);
    write_file("b", text);
    chmod("b", 0755);
    CHECK_EQ(run_exec("./b", ARGS("b"), NO_ENV), 0);
    CHECK_STR(output, "a\n");
    snprintf(text, sizeof text, "#!%s/self\n", cwd);
    write_file("self", text);
    chmod("self", 0755);
    CHECK_EQ(run_exec("./self", ARGS("self"), NO_ENV), ELOOP);
}

TEST(close_on_exec_descriptors_close_and_others_stay) {
    int keep = open("/dev/null", O_RDONLY), drop = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char a[10], b[10];
    sprintf(a, "%d", keep);
    sprintf(b, "%d", drop);
    CHECK_EQ(run_exec(SELF, ARGS("x", "--role", "fd", a), NO_ENV), 0);
    CHECK_EQ(run_exec(SELF, ARGS("x", "--role", "fd", b), NO_ENV), 1);
}

static void ignore(int sig) { (void)sig; }
TEST(handlers_reset_but_ignored_masked_and_pending_stay) {
    static char alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    CHECK(sigaltstack(&ss, NULL) == 0);
    handle_signal(SIGUSR1, ignore, 0);
    signal(SIGUSR2, SIG_IGN);
    sigset_t hup = signal_set(SIGHUP, 0);
    sigprocmask(SIG_BLOCK, &hup, NULL);
    pid_t pid = CHILD({
        raise(SIGHUP);
        execv(SELF, ARGS("x", "--role", "signals"));
    });
    CHECK_EXIT(pid, 31);
}

TEST(pid_stays_across_exec) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        dup2(p[1], 1);
        execv(SELF, ARGS("x", "--role", "pids"));
    });
    char text[100] = {0}, want[100];
    CHECK(read(p[0], text, 99) > 0);
    snprintf(want, sizeof want, "%d %d %d", pid, getpid(), pid);
    CHECK_STR(text, want);
    CHECK_EXIT(pid, 0);
}

static void *sleep_forever(void *arg) {
    for (;;) pause();
    return arg;
}
static int thread_pipe;
static void *exec_from_thread(void *arg) {
    (void)arg;
    dup2(thread_pipe, 1);
    execv(SELF, ARGS("x", "--role", "pids"));
    _exit(99);
}
TEST(exec_from_a_second_thread_takes_over_the_pid_and_ends_the_others) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        pthread_t t;
        thread_pipe = p[1];
        pthread_create(&t, NULL, sleep_forever, NULL);
        pthread_create(&t, NULL, exec_from_thread, NULL);
        sleep_forever(NULL);
    });
    char text[100] = {0}, want[100];
    CHECK(read(p[0], text, 99) > 0);
    snprintf(want, sizeof want, "%d %d %d", pid, getpid(), pid);
    CHECK_STR(text, want);
    CHECK_EXIT(pid, 0);
}

TEST(fexecve_and_execveat) {
    int fd = open(self_path(), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    pid_t pid = CHILD(syscall(SYS_execveat, fd, "", ARGS("x", "--role", "exit", "5"), NO_ENV, AT_EMPTY_PATH));
    CHECK_EXIT(pid, 5);
    int dir = open("/proc/self", O_PATH | O_DIRECTORY);
    pid = CHILD(syscall(SYS_execveat, dir, "exe", ARGS("x", "--role", "exit", "6"), NO_ENV, 0));
    CHECK_EXIT(pid, 6);
    CHECK_ERR(syscall(SYS_execveat, dir, "exe", ARGS("x"), NO_ENV, AT_SYMLINK_NOFOLLOW), ELOOP);
    CHECK_ERR(syscall(SYS_execveat, -5, "exe", ARGS("x"), NO_ENV, 0), EBADF);
}

TEST(the_name_follows_the_file) {
    CHECK(symlink(self_path(), "called-like-this-and-more") == 0);
    CHECK_EQ(run_exec("./called-like-this-and-more", ARGS("other", "--role", "name"), NO_ENV), 0);
    CHECK_STR(output, "called-like-thi");
}

TEST(auxiliary_vector) {
    CHECK_EQ(getauxval(AT_PAGESZ), 4096);
    CHECK_EQ(getauxval(AT_UID), getuid());
    CHECK_EQ(getauxval(AT_EGID), getegid());
    CHECK_EQ(getauxval(AT_SECURE), 0);
    CHECK_EQ(getauxval(AT_PHENT), sizeof(Elf64_Phdr));
    CHECK(getauxval(AT_PHNUM) > 0 && getauxval(AT_PHDR) && getauxval(AT_ENTRY));
    CHECK_EQ(getauxval(AT_CLKTCK), 100);
    CHECK_STR((char *)getauxval(AT_PLATFORM), "x86_64");
    CHECK(getauxval(AT_EXECFN) && strlen((char *)getauxval(AT_EXECFN)) > 0);
    unsigned char *random = (unsigned char *)getauxval(AT_RANDOM);
    CHECK(random);
    int different = 0;
    for (int i = 1; i < 16; i++) different += random[i] != random[0];
    CHECK(different > 4);
    Elf64_Ehdr *vdso = (Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR);
    CHECK(vdso && !memcmp(vdso->e_ident, ELFMAG, 4) && vdso->e_type == ET_DYN);
}

TEST(long_argument_lists_pass_and_too_long_ones_are_e2big) {
    enum { N = 5000 };
    static char *argv[N + 4];
    argv[0] = "x", argv[1] = "--role", argv[2] = "count";
    for (int i = 3; i < N; i++) argv[i] = "0123456789012345678901234567890123456789";
    argv[N] = NULL;
    CHECK_EQ(run_exec(SELF, argv, NO_ENV), 0);
    CHECK_EQ(atoi(output), N - 2);
    char *huge = malloc(200000); /* one string may have 128 KiB */
    memset(huge, 'a', 199999);
    huge[199999] = 0;
    CHECK_ERR(execve(SELF, ARGS("x", huge), NO_ENV), E2BIG);
    huge[131071] = 0;
    CHECK_EQ(run_exec(SELF, ARGS("x", "--role", "count", huge), NO_ENV), 0);
}

TEST(vfork_then_exec) {
    pid_t pid = vfork();
    CHECK(pid >= 0);
    if (pid == 0) {
        execve(SELF, ARGS("x", "--role", "exit", "44"), NO_ENV);
        _exit(99);
    }
    CHECK_EXIT(pid, 44);
    pid = vfork();
    if (pid == 0) {
        execve("missing", ARGS("x"), NO_ENV);
        _exit(errno == ENOENT ? 3 : 4);
    }
    CHECK_EXIT(pid, 3);
}

TEST(a_file_open_for_writing_is_busy_and_a_running_one_cannot_be_written) {
    write_file("script", "#!/bin/sh\nexit 3\n");
    chmod("script", 0755);
    int fd = open("script", O_WRONLY);
    CHECK_EQ(run_exec("./script", ARGS("x"), NO_ENV), ETXTBSY);
    close(fd);
    CHECK_EQ(run_exec("./script", ARGS("x"), NO_ENV), 3);
    CHECK_ERR(open(SELF, O_WRONLY), ETXTBSY);
}

TEST(memory_of_the_old_program_is_gone) {
    void *p = mmap((void *)0x20000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(p == (void *)0x20000000);
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK_EQ(run_exec("/bin/cat", ARGS("cat", "/proc/self/maps"), NO_ENV), 0);
    CHECK(!strstr(output, "20000000-20001000"));
    CHECK(strstr(output, "[stack]"));
}

TEST(a_set_user_id_program_changes_the_effective_user) {
    /* needs a file system that is not mounted nosuid, and no no_new_privs */
    int in = open(self_path(), O_RDONLY), out = open("suid", O_WRONLY | O_CREAT | O_EXCL, 0755);
    char buf[65536];
    ssize_t n;
    while ((n = read(in, buf, sizeof buf)) > 0) CHECK(write(out, buf, n) == n);
    close(out);
    CHECK(chown("suid", 4242, 4343) == 0 && chmod("suid", 06755) == 0);
    CHECK(chmod(".", 0755) == 0);
    pid_t pid = CHILD(execv("./suid", ARGS("x", "effective_ids_are_the_files")));
    CHECK_EXIT(pid, 0);
    pid = CHILD({
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        execv("./suid", ARGS("x", "effective_ids_are_the_callers"));
    });
    CHECK_EXIT(pid, 0);
}

/* The two below are meant to be started by the test above; alone they are true for root too. */
TEST(effective_ids_are_the_files) {
    char path[PATH_MAX] = {0};
    readlink(SELF, path, sizeof path - 1);
    if (!strstr(path, "/suid")) return;
    CHECK(getuid() == 0 && geteuid() == 4242 && getgid() == 0 && getegid() == 4343);
    CHECK_EQ(getauxval(AT_SECURE), 1);
    uid_t r, e, s;
    CHECK(getresuid(&r, &e, &s) == 0 && s == 4242);
}
TEST(effective_ids_are_the_callers) { CHECK(geteuid() == getuid() && getegid() == getgid()); }

TEST(addr_no_randomize_puts_programs_at_the_same_place) {
    static char first[sizeof output];
    CHECK_EQ(syscall(SYS_personality, ADDR_NO_RANDOMIZE), 0);
    CHECK_EQ(syscall(SYS_personality, 0xffffffff), ADDR_NO_RANDOMIZE);
    CHECK_EQ(run_exec("/bin/cat", ARGS("cat", "/proc/self/personality"), NO_ENV), 0);
    CHECK(!strcmp(output, "00040000\n"));
    CHECK_EQ(run_exec("/bin/cat", ARGS("cat", "/proc/self/maps"), NO_ENV), 0);
    strcpy(first, output);
    CHECK_EQ(run_exec("/bin/cat", ARGS("cat", "/proc/self/maps"), NO_ENV), 0);
    CHECK(!strcmp(first, output));
}
