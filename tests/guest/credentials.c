/* Users, groups, capabilities, set-id rules, resource limits, no_new_privs, keepcaps. */
#include "check.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

#define IDS(r, e, s)                                                                           \
    do {                                                                                       \
        uid_t r_, e_, s_;                                                                      \
        CHECK(getresuid(&r_, &e_, &s_) == 0);                                                  \
        CHECK_EQ(r_, r);                                                                       \
        CHECK_EQ(e_, e);                                                                       \
        CHECK_EQ(s_, s);                                                                       \
    } while (0)

static void get_caps(struct __user_cap_data_struct data[2]) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    CHECK(syscall(SYS_capget, &h, data) == 0);
}
static int set_caps(struct __user_cap_data_struct data[2]) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    return syscall(SYS_capset, &h, data);
}

TEST(root_may_become_anyone_and_not_come_back) {
    CHECK(getuid() == 0 && geteuid() == 0);
    CHECK(setuid(1000) == 0);
    IDS(1000, 1000, 1000);
    CHECK_ERR(setuid(0), EPERM);
    CHECK_ERR(setresuid(-1, 0, -1), EPERM);
    CHECK(setuid(1000) == 0);
}

TEST(the_saved_user_allows_coming_back) {
    CHECK(seteuid(1000) == 0);
    IDS(0, 1000, 0);
    CHECK(seteuid(0) == 0);
    CHECK(setreuid(1000, 1001) == 0);
    IDS(1000, 1001, 1001);
    CHECK(setreuid(1001, 1000) == 0);
    IDS(1001, 1000, 1000);
    CHECK(setresuid(1000, 1001, 1001) == 0);
    CHECK_ERR(setresuid(1002, -1, -1), EPERM);
}

TEST(groups) {
    gid_t list[3] = {10, 20, 30}, got[10];
    CHECK(setgroups(3, list) == 0);
    CHECK_EQ(getgroups(0, NULL), 3);
    CHECK(getgroups(10, got) == 3 && got[0] == 10 && got[2] == 30);
    CHECK_ERR(getgroups(1, got), EINVAL);
    CHECK(setresgid(5, 6, 7) == 0);
    gid_t r, e, s;
    CHECK(getresgid(&r, &e, &s) == 0 && r == 5 && e == 6 && s == 7);
    CHECK(setresuid(1000, 1000, 1000) == 0);
    CHECK_ERR(setgroups(0, NULL), EPERM);
    CHECK(setgid(7) == 0 && getegid() == 7 && getgid() == 5);
    CHECK_ERR(setgid(99), EPERM);
    write_file("/dev/null", "");
}

TEST(group_membership_opens_files) {
    write_file("f", "x");
    CHECK(chmod("f", 0040) == 0 && chown("f", 0, 4444) == 0 && chmod(".", 0755) == 0);
    gid_t list[1] = {4444};
    pid_t pid = CHILD({
        CHECK(setgroups(1, list) == 0 && setresuid(1000, 1000, 1000) == 0);
        CHECK(open("f", O_RDONLY) >= 0);
    });
    CHECK_EXIT(pid, 0);
    pid = CHILD({
        CHECK(setgroups(0, NULL) == 0 && setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        CHECK_ERR(open("f", O_RDONLY), EACCES);
    });
    CHECK_EXIT(pid, 0);
}

TEST(the_file_system_user) {
    CHECK_EQ(setfsuid(1000), 0);
    CHECK_EQ(setfsuid(-1), 1000);
    int fd = open("mine", O_WRONLY | O_CREAT, 0600);
    CHECK(fd < 0 && errno == EACCES);
    CHECK_EQ(setfsuid(0), 1000);
    CHECK_EQ(setfsgid(0), 0);
}

TEST(capabilities_go_with_the_user) {
    /* depends on the bounding set a container has: only what is there can go */
    struct __user_cap_data_struct c[2];
    get_caps(c);
    CHECK(c[0].effective != 0 && c[0].effective == c[0].permitted);
    pid_t pid = CHILD({
        CHECK(setresuid(1000, 1000, 1000) == 0);
        get_caps(c);
        CHECK(c[0].effective == 0 && c[0].permitted == 0);
    });
    CHECK_EXIT(pid, 0);
    pid = CHILD({
        struct __user_cap_data_struct before[2];
        get_caps(before);
        CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && prctl(PR_GET_KEEPCAPS) == 1);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        get_caps(c);
        CHECK(c[0].effective == 0 && c[0].permitted == before[0].permitted);
        c[0].effective = 1 << CAP_KILL;
        CHECK(set_caps(c) == 0);
        CHECK(kill(getppid(), 0) == 0);
    });
    CHECK_EXIT(pid, 0);
    CHECK(seteuid(1000) == 0);
    get_caps(c);
    CHECK(c[0].effective == 0 && c[0].permitted != 0);
    CHECK(seteuid(0) == 0);
    get_caps(c);
    CHECK(c[0].effective == c[0].permitted);
}

TEST(a_dropped_capability_stays_dropped) {
    struct __user_cap_data_struct c[2];
    get_caps(c);
    c[0].effective &= ~(1 << CAP_CHOWN);
    c[0].permitted &= ~(1 << CAP_CHOWN);
    CHECK(set_caps(c) == 0);
    write_file("f", "");
    CHECK_ERR(chown("f", 1, 1), EPERM);
    c[0].permitted |= 1 << CAP_CHOWN;
    CHECK_ERR(set_caps(c), EPERM);
    CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 1);
    CHECK(prctl(PR_CAPBSET_DROP, CAP_CHOWN) == 0);
    CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 0);
    CHECK_ERR(prctl(PR_CAPBSET_READ, 63), EINVAL);
}

TEST(capability_headers_are_checked) {
    struct __user_cap_header_struct h = {0x1234, 0};
    struct __user_cap_data_struct c[2];
    CHECK_ERR(syscall(SYS_capget, &h, c), EINVAL);
    CHECK_EQ(h.version, _LINUX_CAPABILITY_VERSION_3);
    h.pid = 99999999;
    CHECK_ERR(syscall(SYS_capget, &h, c), ESRCH);
}

TEST(limits_soft_and_hard) {
    struct rlimit r, want = {100, 200};
    CHECK(setrlimit(RLIMIT_NOFILE, &want) == 0 && getrlimit(RLIMIT_NOFILE, &r) == 0);
    CHECK(r.rlim_cur == 100 && r.rlim_max == 200);
    CHECK_ERR(setrlimit(RLIMIT_NOFILE, &(struct rlimit){300, 200}), EINVAL);
    CHECK_ERR(getrlimit(99, &r), EINVAL);
    CHECK(setresuid(1000, 1000, 1000) == 0);
    CHECK_ERR(setrlimit(RLIMIT_NOFILE, &(struct rlimit){100, 201}), EPERM);
    CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){150, 150}) == 0);
    struct rlimit old;
    CHECK(prlimit(0, RLIMIT_NOFILE, &(struct rlimit){50, 150}, &old) == 0 && old.rlim_cur == 150);
    pid_t pid = CHILD({
        CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur == 50);
    });
    CHECK_EXIT(pid, 0);
    CHECK_ERR(prlimit(99999999, RLIMIT_NOFILE, NULL, &old), ESRCH);
}

TEST(the_cpu_limit_sends_sigxcpu) {
    struct rlimit none = {0, 0}, one = {1, 10};
    setrlimit(RLIMIT_CORE, &none);
    pid_t pid = CHILD({
        CHECK(setrlimit(RLIMIT_CPU, &one) == 0);
        for (volatile unsigned long i = 0;; i++) {}
    });
    CHECK_KILLED(pid, SIGXCPU);
}

TEST(personality_and_securebits_can_be_read) {
    CHECK_EQ(syscall(SYS_personality, 0xffffffff), 0);
    CHECK_EQ(prctl(PR_GET_SECUREBITS), 0);
}
