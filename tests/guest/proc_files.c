/* What /proc tells about this process and this system. */
#include "check.h"
#include <dirent.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

static long field(const char *name) {
    read_file("/proc/self/status");
    char *at = strstr(file_text, name);
    if (!at || (at != file_text && at[-1] != '\n')) fail(__FILE__, __LINE__, "no %s in status", name);
    return strtol(at + strlen(name) + 1, NULL, 10);
}

TEST(self_is_this_process) {
    char text[30] = {0}, want[30];
    CHECK(readlink("/proc/self", text, 29) > 0);
    CHECK_EQ(atoi(text), getpid());
    memset(text, 0, 30);
    CHECK(readlink("/proc/thread-self", text, 29) > 0);
    snprintf(want, sizeof want, "%d/task/%d", getpid(), my_tid());
    CHECK_STR(text, want);
    CHECK_ERR(access("/proc/99999999", F_OK), ENOENT);
}

TEST(status) {
    CHECK(prctl(PR_SET_NAME, "a name") == 0);
    read_file("/proc/self/status");
    CHECK(!strncmp(file_text, "Name:\ta name\n", 13));
    CHECK(strstr(file_text, "\nState:\tR (running)\n"));
    CHECK_EQ(field("Pid:"), getpid());
    CHECK_EQ(field("PPid:"), getppid());
    CHECK_EQ(field("Tgid:"), getpid());
    CHECK_EQ(field("Threads:"), 1);
    CHECK_EQ(field("Uid:"), 0);
    CHECK(field("VmSize:") > 100 && field("VmRSS:") > 10);
    CHECK(field("FDSize:") >= 3);
    CHECK(strstr(file_text, "\nCapEff:\t") && strstr(file_text, "\nSigBlk:\t"));
    sigset_t set = signal_set(SIGUSR1, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR2, SIG_IGN);
    raise(SIGUSR1);
    read_file("/proc/self/status");
    CHECK(strstr(file_text, "\nSigBlk:\t0000000000000200\n"));
    CHECK(strstr(file_text, "\nSigPnd:\t0000000000000200\n"));
    char *ignored = strstr(file_text, "\nSigIgn:\t");
    CHECK(ignored);
    /* the runtime library keeps 32 and 33 to itself, and lets nobody reset them */
    CHECK_EQ(strtoull(ignored + 9, NULL, 16) & ~(3ULL << 31), 0x800);
}

TEST(stat_has_52_fields) {
    CHECK(prctl(PR_SET_NAME, "x) R (y") == 0);
    read_file("/proc/self/stat");
    char want[50];
    snprintf(want, sizeof want, "%d (x) R (y) R %d %d %d ", getpid(), getppid(), getpgrp(), getsid(0));
    CHECK(!strncmp(file_text, want, strlen(want)));
    int n = 2;
    for (char *p = strrchr(file_text, ')'); *p; p++) n += *p == ' ';
    CHECK_EQ(n, 52);
}

TEST(comm_can_be_read_and_written) {
    write_file("/proc/self/comm", "renamed");
    read_file("/proc/self/comm");
    CHECK_STR(file_text, "renamed\n");
}

TEST(cmdline_and_environ) {
    ssize_t n = read_file("/proc/self/cmdline");
    CHECK(n > 0 && !strcmp(file_text, program_argv[0]) && file_text[n - 1] == 0);
    extern char **environ;
    n = read_file("/proc/self/environ");
    if (environ[0]) CHECK(n > 0 && strchr(file_text, '='));
    int p[2];
    char text[100] = {0};
    CHECK(pipe(p) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], 1);
        execle("/bin/cat", "cat", "/proc/self/environ", "/proc/self/cmdline", NULL, (char *[]){"A=1", "B=2", NULL});
        _exit(1);
    }
    CHECK_EXIT(pid, 0);
    n = read(p[0], text, 99);
    char want[] = "A=1\0B=2\0cat\0/proc/self/environ\0/proc/self/cmdline";
    CHECK(n == sizeof want && !memcmp(text, want, sizeof want));
}

TEST(exe_cwd_and_root_links) {
    char link[PATH_MAX] = {0}, cwd[PATH_MAX];
    CHECK(readlink("/proc/self/cwd", link, PATH_MAX - 1) > 0 && getcwd(cwd, sizeof cwd));
    CHECK_STR(link, cwd);
    memset(link, 0, sizeof link);
    CHECK(readlink("/proc/self/root", link, PATH_MAX - 1) > 0);
    CHECK_STR(link, "/");
    memset(link, 0, sizeof link);
    CHECK(readlink("/proc/self/exe", link, PATH_MAX - 1) > 0 && link[0] == '/');
    struct stat a, b;
    CHECK(stat("/proc/self/exe", &a) == 0 && stat(link, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev);
}

TEST(fd_lists_exactly_the_open_descriptors) {
    close_range(3, ~0U, 0);
    write_file("f", "text");
    int fd = open("f", O_RDWR | O_APPEND);
    CHECK(dup2(fd, 77) == 77 && lseek(fd, 2, SEEK_SET) == 2);
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    int seen = 0, own = 0;
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        int n = atoi(e->d_name);
        own += n == dirfd(d);
        if (n != dirfd(d)) CHECK(fcntl(n, F_GETFD) >= 0);
        seen += n == fd || n == 77;
    }
    CHECK(seen == 2 && own == 1);
    char link[PATH_MAX] = {0}, cwd[PATH_MAX], path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, link, PATH_MAX - 1) > 0 && getcwd(cwd, sizeof cwd));
    strcat(cwd, "/f");
    CHECK_STR(link, cwd);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    read_file(path);
    CHECK(!strncmp(file_text, "pos:\t2\n", 7));
    CHECK(strstr(file_text, "flags:\t0102002\n"));
    int p[2];
    CHECK(pipe(p) == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
    memset(link, 0, sizeof link);
    CHECK(readlink(path, link, PATH_MAX - 1) > 0 && !strncmp(link, "pipe:[", 6));
}

TEST(mounts_name_the_root_and_proc) {
    read_file("/proc/self/mounts");
    CHECK(strstr(file_text, " / ") && strstr(file_text, " /proc proc "));
    read_file("/proc/self/mountinfo");
    CHECK(strstr(file_text, " / / ") && strstr(file_text, " - proc "));
    read_file("/proc/mounts");
    CHECK(strstr(file_text, " /proc proc "));
}

TEST(limits_follow_setrlimit) {
    struct rlimit r = {123, 456};
    CHECK(setrlimit(RLIMIT_NOFILE, &r) == 0);
    read_file("/proc/self/limits");
    CHECK(strstr(file_text, "Max open files            123                  456                  files"));
    CHECK(strstr(file_text, "Max stack size "));
}

TEST(other_processes_are_seen_with_their_state) {
    pid_t pid = CHILD(for (;;) pause());
    wait_blocked(pid);
    CHECK_EQ(thread_state(pid), 'S');
    int st;
    kill(pid, SIGSTOP);
    CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid);
    CHECK_EQ(thread_state(pid), 'T');
    kill(pid, SIGKILL);
    siginfo_t si;
    CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0);
    CHECK_EQ(thread_state(pid), 'Z');
    bool found = false;
    DIR *d = opendir("/proc");
    for (struct dirent *e; (e = readdir(d));) found |= atoi(e->d_name) == pid;
    CHECK(found);
    CHECK_KILLED(pid, SIGKILL);
    CHECK_EQ(thread_state(pid), 0);
}

TEST(a_file_of_a_dead_process_is_esrch) {
    pid_t pid = CHILD(for (;;) pause());
    char path[64], c;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
    CHECK_ERR(read(fd, &c, 1), ESRCH);
}

TEST(mem_reads_the_own_memory) {
    static char secret[] = "in memory";
    int fd = open("/proc/self/mem", O_RDWR);
    char buf[10] = {0};
    CHECK(fd >= 0);
    CHECK_EQ(pread(fd, buf, sizeof secret, (off_t)(uintptr_t)secret), sizeof secret);
    CHECK_STR(buf, "in memory");
    CHECK_EQ(pwrite(fd, "IN", 2, (off_t)(uintptr_t)secret), 2);
    CHECK_STR(*(char *volatile *)&(char *){secret}, "IN memory");
    CHECK_ERR(pread(fd, buf, 1, 0), EIO);
}

TEST(system_files) {
    read_file("/proc/cpuinfo");
    int cpus = 0;
    for (char *p = file_text; (p = strstr(p, "processor\t:")); p++) cpus++;
    CHECK_EQ(cpus, sysconf(_SC_NPROCESSORS_CONF));
    CHECK(strstr(file_text, "model name\t:") && strstr(file_text, "flags\t\t:"));
    read_file("/proc/meminfo");
    unsigned long total, available;
    CHECK(sscanf(file_text, "MemTotal: %lu kB", &total) == 1);
    char *at = strstr(file_text, "MemAvailable:");
    CHECK(at && sscanf(at, "MemAvailable: %lu kB", &available) == 1 && available <= total && available > 0);
    struct sysinfo si;
    CHECK(sysinfo(&si) == 0 && si.totalram / 1024 * si.mem_unit == total);
    double up, idle, load;
    read_file("/proc/uptime");
    CHECK(sscanf(file_text, "%lf %lf", &up, &idle) == 2 && up > 0);
    CHECK(llabs((long)up - now_ns(CLOCK_BOOTTIME) / 1000000000) <= 2);
    int running, all, last;
    read_file("/proc/loadavg");
    CHECK(sscanf(file_text, "%lf %*f %*f %d/%d %d", &load, &running, &all, &last) == 4 && all >= running && running >= 1);
    read_file("/proc/stat");
    CHECK(!strncmp(file_text, "cpu  ", 5) && strstr(file_text, "\nbtime ") && strstr(file_text, "\nprocs_running "));
    read_file("/proc/version");
    struct utsname u;
    CHECK(uname(&u) == 0);
    CHECK(!strncmp(file_text, "Linux version ", 14) && strstr(file_text, u.release));
    read_file("/proc/filesystems");
    CHECK(strstr(file_text, "nodev\tproc\n"));
}

TEST(sys_settings) {
    struct utsname u;
    CHECK(uname(&u) == 0);
    read_file("/proc/sys/kernel/hostname");
    file_text[strcspn(file_text, "\n")] = 0;
    CHECK_STR(file_text, u.nodename);
    read_file("/proc/sys/kernel/osrelease");
    file_text[strcspn(file_text, "\n")] = 0;
    CHECK_STR(file_text, u.release);
    read_file("/proc/sys/kernel/pid_max");
    CHECK(atoi(file_text) >= 32768);
    read_file("/proc/sys/kernel/random/boot_id");
    CHECK_EQ(strlen(file_text), 37);
}

TEST(smaps_and_statm_add_up) {
    unsigned long size, resident;
    char *p = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    read_file("/proc/self/statm");
    CHECK(sscanf(file_text, "%lu %lu", &size, &resident) == 2 && size >= 2048 && resident > 0);
    unsigned long before = resident;
    memset(p, 1, 8 << 20);
    read_file("/proc/self/statm");
    CHECK(sscanf(file_text, "%lu %lu", &size, &resident) == 2);
    CHECK(resident >= before + 1500);
}
