/* The system around a process: uname, sysinfo, affinity, priorities, usage, random numbers, ids of machines. */
#include "check.h"
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

TEST(uname_says_linux_on_x86_64) {
    struct utsname u;
    CHECK(uname(&u) == 0);
    CHECK_STR(u.sysname, "Linux");
    CHECK_STR(u.machine, "x86_64");
    int major, minor;
    CHECK(sscanf(u.release, "%d.%d", &major, &minor) == 2 && major >= 4);
    CHECK_ERR(syscall(SYS_uname, (void *)8), EFAULT);
}

TEST(the_host_name_can_be_set_by_root) {
    /* needs CAP_SYS_ADMIN in the UTS namespace; EPERM is the honest answer without it */
    struct utsname u;
    if (sethostname("renamed", 7) < 0) {
        CHECK_EQ(errno, EPERM);
        return;
    }
    CHECK(uname(&u) == 0);
    CHECK_STR(u.nodename, "renamed");
    char longer[100];
    memset(longer, 'h', 100);
    CHECK_ERR(sethostname(longer, 65), EINVAL);
}

TEST(sysinfo_is_plausible) {
    struct sysinfo s;
    CHECK(sysinfo(&s) == 0);
    CHECK(s.uptime > 0 && s.totalram > 0 && s.freeram <= s.totalram && s.procs >= 1 && s.mem_unit >= 1);
}

TEST(affinity_reads_narrows_and_refuses_nothing) {
    cpu_set_t all, one, got;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    int n = CPU_COUNT(&all), first = 0;
    CHECK(n >= 1 && n == sysconf(_SC_NPROCESSORS_ONLN));
    while (!CPU_ISSET(first, &all)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(sched_getaffinity(0, sizeof got, &got) == 0 && CPU_EQUAL(&got, &one));
    unsigned cpu, node;
    CHECK(syscall(SYS_getcpu, &cpu, &node, NULL) == 0 && cpu == (unsigned)first);
    CPU_ZERO(&one);
    CHECK_ERR(sched_setaffinity(0, sizeof one, &one), EINVAL);
    CHECK_ERR(sched_getaffinity(99999999, sizeof got, &got), ESRCH);
    CHECK_ERR(syscall(SYS_sched_getaffinity, 0, 1, &got), EINVAL);
    pid_t pid = CHILD(CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && CPU_COUNT(&all) == 1));
    CHECK_EXIT(pid, 0);
}

TEST(priorities_and_policies) {
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), 0);
    CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0 && getpriority(PRIO_PROCESS, 0) == 5);
    CHECK(nice(3) == 8 && getpriority(PRIO_PROCESS, 0) == 8);
    CHECK_ERR(getpriority(99, 0), EINVAL);
    CHECK_ERR(getpriority(PRIO_PROCESS, 99999999), ESRCH);
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
    struct sched_param p;
    CHECK(sched_getparam(0, &p) == 0 && p.sched_priority == 0);
    CHECK(sched_get_priority_max(SCHED_FIFO) == 99 && sched_get_priority_min(SCHED_FIFO) == 1);
    CHECK_ERR(sched_get_priority_max(99), EINVAL);
    CHECK(setresuid(1000, 1000, 1000) == 0);
    errno = 0;
    CHECK_ERR(setpriority(PRIO_PROCESS, 0, -5), EACCES);
    CHECK(sched_yield() == 0);
}

TEST(usage_grows_with_work) {
    struct rusage before, after;
    CHECK(getrusage(RUSAGE_SELF, &before) == 0);
    long long until = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 50000000;
    while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < until) {}
    CHECK(getrusage(RUSAGE_SELF, &after) == 0);
    long us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
              after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec;
    CHECK(us >= 20000);
    CHECK(after.ru_maxrss > 100);
    CHECK(getrusage(RUSAGE_CHILDREN, &after) == 0 && after.ru_utime.tv_sec == 0);
    CHECK(getrusage(RUSAGE_THREAD, &after) == 0);
    CHECK_ERR(getrusage(99, &after), EINVAL);
}

TEST(random_numbers_differ) {
    unsigned char a[32], b[32];
    CHECK(getrandom(a, 32, 0) == 32 && getrandom(b, 32, GRND_NONBLOCK) == 32);
    CHECK(memcmp(a, b, 32) != 0);
    CHECK_ERR(getrandom(a, 32, 0xff00), EINVAL);
    CHECK_ERR(getrandom((void *)8, 32, 0), EFAULT);
}

TEST(unknown_calls_are_enosys) {
    CHECK_ERR(syscall(1000), ENOSYS);
    CHECK_ERR(syscall(-1), ENOSYS);
    CHECK_ERR(syscall(0x7fffffff), ENOSYS);
}

TEST(membarrier_and_rseq_answer_honestly) {
    long r = syscall(SYS_membarrier, 0, 0, 0);
    CHECK(r >= 0 || errno == ENOSYS);
    if (r > 0 && (r & 16)) CHECK(syscall(SYS_membarrier, 16, 0, 0) == 0 && syscall(SYS_membarrier, 8, 0, 0) == 0);
    CHECK_ERR(syscall(SYS_rseq, (void *)1, 32, 0, 0), errno == ENOSYS ? ENOSYS : EINVAL);
}

TEST(mount_and_umount_of_a_tmpfs) {
    /* needs CAP_SYS_ADMIN; EPERM is the honest answer without it */
    extern int mount(const char *, const char *, const char *, unsigned long, const void *);
    extern int umount2(const char *, int);
    CHECK(mkdir("m", 0755) == 0);
    if (mount("none", "m", "tmpfs", 0, "size=1m") < 0) {
        CHECK_EQ(errno, EPERM);
        return;
    }
    write_file("m/f", "inside");
    CHECK_ERR(rmdir("m"), EBUSY);
    CHECK(umount2("m", 2) == 0);
    CHECK_ERR(access("m/f", F_OK), ENOENT);
}
