/* inotify: what is reported for files and directories, in which order, and what ends a watch. */
#include "check.h"
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>

static int in;
static int watch(const char *path, unsigned mask) {
    if (in <= 0) in = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(in > 0);
    int wd = inotify_add_watch(in, path, mask);
    CHECK(wd > 0);
    return wd;
}

/* All events that are there, as "wd:MASK[:name]" words; cookies of moves must pair. */
static const char *events(void) {
    static const char *names[] = {
        "ACCESS", "MODIFY", "ATTRIB", "CLOSE_WRITE", "CLOSE_NOWRITE", "OPEN", "MOVED_FROM", "MOVED_TO",
        "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF", 0, "UNMOUNT", "Q_OVERFLOW", "IGNORED"};
    static char text[8000];
    static char buf[65536] __attribute__((aligned(8)));
    char *out = text;
    uint32_t cookie = 0;
    ssize_t n;
    *out = 0;
    while ((n = read(in, buf, sizeof buf)) > 0) {
        for (char *p = buf; p < buf + n;) {
            struct inotify_event *e = (void *)p;
            CHECK(e->len % sizeof *e == 0 && p + sizeof *e + e->len <= buf + n);
            if (out > text) *out++ = ' ';
            out += sprintf(out, "%d:", e->wd);
            for (int bit = 0; bit < 16; bit++)
                if (e->mask & 1u << bit) out += sprintf(out, "%s", names[bit]);
            if (e->mask & IN_ISDIR) out += sprintf(out, "|DIR");
            if (e->len) out += sprintf(out, ":%s", e->name);
            if (e->mask & IN_MOVED_FROM) {
                CHECK(e->cookie);
                cookie = e->cookie;
            } else if (e->mask & IN_MOVED_TO && cookie) {
                CHECK_EQ(e->cookie, cookie);
                cookie = 0;
            } else if (!(e->mask & IN_MOVED_TO))
                CHECK_EQ(e->cookie, 0);
            p += sizeof *e + e->len;
        }
    }
    CHECK(n == -1 && errno == EAGAIN);
    return text;
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

TEST(a_directory_reports_its_files) {
    mkdir("d", 0755);
    watch("d", IN_ALL_EVENTS);
    put("d/f", "hello");
    CHECK_STR(events(), "1:CREATE:f 1:OPEN:f 1:MODIFY:f 1:CLOSE_WRITE:f");
    char b[10];
    int fd = open("d/f", O_RDONLY);
    CHECK(read(fd, b, 10) == 5 && read(fd, b, 10) == 0 && pread(fd, b, 2, 0) == 2 && close(fd) == 0);
    CHECK_STR(events(), "1:OPEN:f 1:ACCESS:f 1:CLOSE_NOWRITE:f"); /* equal ones in a row are one */
    CHECK(chmod("d/f", 0600) == 0 && unlink("d/f") == 0);
    CHECK_STR(events(), "1:ATTRIB:f 1:DELETE:f");
    CHECK(mkdir("d/s", 0755) == 0 && rmdir("d/s") == 0);
    CHECK_STR(events(), "1:CREATE|DIR:s 1:DELETE|DIR:s");
    CHECK(symlink("nowhere", "d/l") == 0 && mkfifo("d/p", 0600) == 0 && unlink("d/l") == 0 && unlink("d/p") == 0);
    CHECK_STR(events(), "1:CREATE:l 1:CREATE:p 1:DELETE:l 1:DELETE:p");
    fd = open("d/f", O_PATH | O_CREAT, 0644);
    CHECK(fd == -1 || close(fd) == 0);
    CHECK_STR(events(), "");
}

TEST(a_file_reports_itself) {
    put("f", "12345");
    watch("f", IN_ALL_EVENTS);
    int fd = open("f", O_RDWR);
    CHECK(fd >= 0 && ftruncate(fd, 3) == 0 && fchmod(fd, 0600) == 0 && fsync(fd) == 0 && close(fd) == 0);
    CHECK_STR(events(), "1:OPEN 1:MODIFY 1:ATTRIB 1:CLOSE_WRITE");
    CHECK(truncate("f", 2) == 0);
    CHECK_STR(events(), "1:MODIFY");
    struct timespec both[2] = {{1, 0}, {2, 0}}, one[2] = {{1, 0}, {0, UTIME_OMIT}};
    CHECK(utimensat(AT_FDCWD, "f", both, 0) == 0 && utimensat(AT_FDCWD, "f", one, 0) == 0);
    CHECK(chown("f", 0, 0) == 0);
    CHECK_STR(events(), "1:ATTRIB 1:ACCESS 1:ATTRIB");
    CHECK(link("f", "g") == 0 && unlink("f") == 0);
    CHECK_STR(events(), "1:ATTRIB"); /* twice: its count of links */
    fd = open("g", O_RDONLY);
    CHECK(fd >= 0 && unlink("g") == 0);
    CHECK_STR(events(), "1:OPEN 1:ATTRIB");
    CHECK(close(fd) == 0); /* now it is gone */
    CHECK_STR(events(), "1:CLOSE_NOWRITE 1:DELETE_SELF 1:IGNORED");
    CHECK_ERR(inotify_rm_watch(in, 1), EINVAL);
}

TEST(watched_files_that_go_at_once) {
    put("f", "x");
    watch("f", IN_DELETE_SELF | IN_ATTRIB);
    mkdir("d", 0755);
    watch("d", IN_ALL_EVENTS);
    CHECK(unlink("f") == 0);
    CHECK_STR(events(), "1:ATTRIB 1:DELETE_SELF 1:IGNORED");
    CHECK(rmdir("d") == 0);
    CHECK_STR(events(), "2:DELETE_SELF 2:IGNORED");
    put("f", "new"); /* another file of the same name is not watched */
    CHECK_STR(events(), "");
}

TEST(moves_come_in_pairs) {
    mkdir("a", 0755), mkdir("b", 0755);
    put("a/f", "1"), put("b/victim", "2");
    watch("a", IN_MOVE | IN_DELETE | IN_CREATE);
    watch("b", IN_MOVE | IN_DELETE | IN_CREATE);
    watch("a/f", IN_MOVE_SELF);
    watch("b/victim", IN_ATTRIB | IN_DELETE_SELF);
    CHECK(rename("a/f", "a/g") == 0);
    CHECK_STR(events(), "1:MOVED_FROM:f 1:MOVED_TO:g 3:MOVE_SELF");
    CHECK(rename("a/g", "b/victim") == 0);
    CHECK_STR(events(), "1:MOVED_FROM:g 2:MOVED_TO:victim 4:ATTRIB 3:MOVE_SELF 4:DELETE_SELF 4:IGNORED");
    CHECK(mkdir("a/d", 0755) == 0 && rename("a/d", "b/e") == 0);
    CHECK_STR(events(), "1:CREATE|DIR:d 1:MOVED_FROM|DIR:d 2:MOVED_TO|DIR:e");
    CHECK(syscall(SYS_renameat2, AT_FDCWD, "b/e", AT_FDCWD, "b/victim", 2) == 0);
    CHECK_STR(events(), "2:MOVED_FROM|DIR:e 2:MOVED_TO|DIR:victim 2:MOVED_FROM:victim 2:MOVED_TO:e 3:MOVE_SELF");
}

TEST(bytes_moved_within_the_kernel_count_too) {
    put("from", "12345");
    put("to", "");
    watch("from", IN_ACCESS | IN_MODIFY);
    watch("to", IN_ACCESS | IN_MODIFY);
    int a = open("from", O_RDONLY), b = open("to", O_WRONLY), p[2];
    CHECK_EQ(sendfile(b, a, NULL, 5), 5);
    CHECK_STR(events(), "1:ACCESS 2:MODIFY");
    CHECK(pipe(p) == 0);
    loff_t zero = 0;
    CHECK_EQ(splice(a, &zero, p[1], NULL, 5, 0), 5);
    CHECK_STR(events(), "1:ACCESS");
    CHECK_EQ(splice(p[0], NULL, b, NULL, 5, 0), 5);
    CHECK_STR(events(), "2:MODIFY");
    CHECK(fallocate(b, 0, 0, 100) == 0);
    CHECK_STR(events(), "2:MODIFY");
}

TEST(masks_and_flags) {
    mkdir("d", 0755);
    put("d/f", "x");
    CHECK(symlink("d", "l") == 0);
    watch("d", IN_CREATE);
    CHECK_EQ(inotify_add_watch(in, "l", IN_DELETE), 1); /* the same one, with another mask */
    put("d/g", "x");
    CHECK_STR(events(), "");
    CHECK_EQ(inotify_add_watch(in, "d", IN_CREATE | IN_MASK_ADD), 1);
    put("d/h", "x");
    CHECK(unlink("d/g") == 0);
    CHECK_STR(events(), "1:CREATE:h 1:DELETE:g");
    CHECK_ERR(inotify_add_watch(in, "d", IN_CREATE | IN_MASK_CREATE), EEXIST);
    CHECK_ERR(inotify_add_watch(in, "d", IN_CREATE | IN_MASK_CREATE | IN_MASK_ADD), EINVAL);
    CHECK_ERR(inotify_add_watch(in, "d", 0), EINVAL);
    CHECK_ERR(inotify_add_watch(in, "d/f", IN_OPEN | IN_ONLYDIR), ENOTDIR);
    CHECK_ERR(inotify_add_watch(in, "none", IN_OPEN), ENOENT);
    CHECK_ERR(inotify_add_watch(in, (char *)8, IN_OPEN), EFAULT);
    CHECK_ERR(inotify_add_watch(1, "d", IN_OPEN), EINVAL);
    CHECK_ERR(inotify_add_watch(99, "d", IN_OPEN), EBADF);
    CHECK_ERR(inotify_rm_watch(in, 77), EINVAL);
    CHECK_ERR(inotify_rm_watch(99, 1), EBADF);
    CHECK_ERR(inotify_init1(1), EINVAL);
    CHECK_EQ(inotify_add_watch(in, "l", IN_ATTRIB | IN_DELETE_SELF | IN_DONT_FOLLOW), 2);
    CHECK_EQ(inotify_add_watch(in, "d/f", IN_ACCESS | IN_OPEN | IN_ONESHOT), 3);
    close(open("d/f", O_RDONLY));
    close(open("d/f", O_RDONLY));
    CHECK_STR(events(), "3:OPEN 3:IGNORED");
    CHECK(unlink("l") == 0);
    CHECK_STR(events(), "2:ATTRIB 2:DELETE_SELF 2:IGNORED");
    CHECK(inotify_rm_watch(in, 1) == 0);
    CHECK_STR(events(), "1:IGNORED");
    put("d/f", "y");
    CHECK_STR(events(), "");
    CHECK_EQ(inotify_add_watch(in, "d", IN_CREATE), 4); /* numbers are not used again */
    pid_t pid = CHILD({
        CHECK(chmod("d", 0300) == 0 && setuid(1000) == 0);
        CHECK_ERR(inotify_add_watch(in, "d", IN_CREATE), EACCES);
    });
    CHECK_EXIT(pid, 0);
}

TEST(what_an_unlinked_file_does_may_be_left_out) {
    mkdir("d", 0755);
    put("d/f", "x"), put("d/g", "x");
    watch("d", IN_MODIFY | IN_CLOSE);
    int f = open("d/f", O_WRONLY), g = open("d/g", O_WRONLY);
    CHECK(unlink("d/f") == 0 && write(f, "y", 1) == 1);
    CHECK_STR(events(), "1:MODIFY:f");
    CHECK_EQ(inotify_add_watch(in, "d", IN_MODIFY | IN_CLOSE | IN_EXCL_UNLINK), 1);
    CHECK(write(f, "y", 1) == 1 && write(g, "y", 1) == 1);
    CHECK(unlink("d/g") == 0 && write(g, "y", 1) == 1 && close(f) == 0 && close(g) == 0);
    CHECK_STR(events(), "1:MODIFY:g");
}

TEST(reading_waiting_and_sizes) {
    mkdir("d", 0755);
    watch("d", IN_CREATE);
    fcntl(in, F_SETFL, 0);
    struct pollfd pf = {in, POLLIN | POLLOUT, 0};
    CHECK_EQ(poll(&pf, 1, 0), 0);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN}, out;
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, in, &ev) == 0);
    pid_t pid = CHILD(CHECK(epoll_wait(ep, &out, 1, -1) == 1 && out.events == EPOLLIN));
    char b[200] __attribute__((aligned(8)));
    pid_t reader = CHILD(CHECK_EQ(read(in, b, sizeof b), 32)); /* fifteen characters and a zero: 16 */
    wait_blocked(pid), wait_blocked(reader);
    CHECK(mkdir("d/123456789012345", 0755) == 0);
    CHECK_EXIT(reader, 0);
    CHECK(mkdir("d/1234567890123456", 0755) == 0);
    CHECK_EXIT(pid, 0);
    CHECK(mkdir("d/x", 0755) == 0);
    int size = 0;
    CHECK(ioctl(in, FIONREAD, &size) == 0 && size == 48 + 32);
    CHECK(poll(&pf, 1, 0) == 1 && pf.revents == POLLIN);
    CHECK_ERR(read(in, b, 47), EINVAL);
    CHECK_EQ(read(in, b, 79), 48); /* whole events only */
    CHECK_EQ(read(in, b, 79), 32);
    CHECK_ERR(write(in, "x", 1), EBADF);
}

TEST(a_full_queue_says_so_once) {
    FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    int most = 0;
    CHECK(f && fscanf(f, "%d", &most) == 1 && most > 0 && most <= 1 << 20);
    mkdir("d", 0755);
    put("d/a", "x");
    watch("d", IN_ATTRIB | IN_OPEN);
    for (int i = 0; i < most / 2 + 10; i++) CHECK(close(open("d/a", O_RDONLY)) == 0 && chmod("d/a", 0644) == 0);
    static char b[1 << 20] __attribute__((aligned(8)));
    int count = 0, overflows = 0;
    ssize_t n;
    while ((n = read(in, b, sizeof b)) > 0)
        for (char *p = b; p < b + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len) {
            struct inotify_event *e = (void *)p;
            count++;
            if (e->mask & IN_Q_OVERFLOW) {
                CHECK(e->wd == -1 && e->len == 0);
                overflows++;
            }
        }
    CHECK_EQ(overflows, 1);
    CHECK_EQ(count, most + 1);
    CHECK(chmod("d/a", 0600) == 0);
    CHECK_STR(events(), "1:ATTRIB:a");
}

TEST(unmounting_ends_a_watch) {
    CHECK(mkdir("m", 0755) == 0 && mount("none", "m", "tmpfs", 0, NULL) == 0);
    put("m/f", "x");
    watch("m/f", IN_OPEN);
    CHECK(umount("m") == 0);
    CHECK_STR(events(), "1:UNMOUNT 1:IGNORED");
}

TEST(instances_are_limited_by_user) {
    pid_t pid = CHILD({
        /* whom no other run of this is */
        CHECK(setuid(20000 + getpid() % 40000) == 0);
        int count = 0;
        while (inotify_init() >= 0) count++;
        CHECK(errno == EMFILE && count > 10 && count <= 1000);
        for (int fd = 3; fd < 1024; fd++) close(fd);
        CHECK(inotify_init() >= 0);
    });
    CHECK_EXIT(pid, 0);
}
