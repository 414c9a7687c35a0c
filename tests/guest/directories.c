/* Directories and names: links, rename, readdir, cookies, symlink loops, *at calls, permissions, times, xattr. */
#include "check.h"
#include <dirent.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

TEST(mkdir_rmdir_and_their_errors) {
    CHECK(mkdir("d", 0750) == 0);
    struct stat st;
    CHECK(stat("d", &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0750);
    CHECK_ERR(mkdir("d", 0755), EEXIST);
    CHECK_ERR(mkdir("no/d", 0755), ENOENT);
    CHECK(mkdir("d/e", 0755) == 0);
    CHECK_ERR(rmdir("d"), ENOTEMPTY);
    CHECK_ERR(unlink("d/e"), EISDIR);
    write_file("f", "");
    CHECK_ERR(rmdir("f"), ENOTDIR);
    CHECK_ERR(rmdir("d/."), EINVAL);
    CHECK_ERR(rmdir("d/e/.."), ENOTEMPTY);
    CHECK(rmdir("d/e") == 0 && rmdir("d/") == 0);
    CHECK_ERR(rmdir("d"), ENOENT);
    CHECK_ERR(rmdir("/"), EBUSY);
}

TEST(hard_links_count) {
    write_file("a", "same");
    CHECK(link("a", "b") == 0);
    struct stat a, b;
    CHECK(stat("a", &a) == 0 && stat("b", &b) == 0);
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 2);
    CHECK_ERR(link("a", "b"), EEXIST);
    CHECK_ERR(link(".", "c"), EPERM);
    CHECK(unlink("a") == 0 && stat("b", &b) == 0 && b.st_nlink == 1);
    read_file("b");
    CHECK_STR(file_text, "same");
}

TEST(symlinks_resolve_and_loops_end) {
    CHECK(mkdir("d", 0755) == 0);
    write_file("d/f", "found");
    CHECK(symlink("d", "l") == 0 && symlink("../d/f", "d/g") == 0);
    read_file("l/g");
    CHECK_STR(file_text, "found");
    struct stat st;
    CHECK(lstat("l", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 1);
    CHECK(stat("l", &st) == 0 && S_ISDIR(st.st_mode));
    CHECK(lstat("l/", &st) == 0 && S_ISDIR(st.st_mode));
    char text[10] = {0};
    CHECK_EQ(readlink("d/g", text, 4), 4);
    CHECK_STR(text, "../d");
    CHECK_ERR(readlink("d/f", text, 4), EINVAL);
    CHECK_ERR(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK(symlink("x2", "x1") == 0 && symlink("x1", "x2") == 0);
    CHECK_ERR(open("x1", O_RDONLY), ELOOP);
    CHECK(symlink("nowhere", "dangling") == 0);
    CHECK_ERR(stat("dangling", &st), ENOENT);
    int fd = open("dangling", O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0 && access("nowhere", F_OK) == 0);
    CHECK_ERR(open("dangling", O_WRONLY | O_CREAT | O_EXCL, 0600), EEXIST);
    char from[20] = "d/f", to[20];
    for (int i = 0; i < 41; i++) {
        snprintf(to, sizeof to, "chain%d", i);
        CHECK(symlink(from, to) == 0);
        strcpy(from, to);
    }
    CHECK(stat("chain39", &st) == 0);
    CHECK_ERR(stat("chain40", &st), ELOOP);
    CHECK_ERR(symlink("", "empty"), ENOENT);
}

TEST(rename_replaces_moves_and_refuses) {
    write_file("a", "A");
    write_file("b", "B");
    CHECK(rename("a", "b") == 0);
    CHECK_ERR(access("a", F_OK), ENOENT);
    read_file("b");
    CHECK_STR(file_text, "A");
    CHECK(mkdir("d", 0755) == 0 && mkdir("d/sub", 0755) == 0 && mkdir("e", 0755) == 0);
    CHECK_ERR(rename("b", "d"), EISDIR);
    CHECK_ERR(rename("d", "b"), ENOTDIR);
    CHECK_ERR(rename("d", "d/sub/x"), EINVAL);
    CHECK_ERR(rename("e", "d"), ENOTEMPTY);
    CHECK(rename("d", "e") == 0 && access("e/sub", F_OK) == 0);
    CHECK_ERR(rename("missing", "x"), ENOENT);
    CHECK(link("b", "b2") == 0 && rename("b", "b2") == 0 && access("b", F_OK) == 0); /* same file: nothing happens */
    CHECK_ERR(syscall(SYS_renameat2, AT_FDCWD, "b", AT_FDCWD, "b2", 1 /* NOREPLACE */), EEXIST);
    CHECK(rename("b", "e/sub/b") == 0 && access("e/sub/b", F_OK) == 0);
    write_file("x", "X");
    CHECK(syscall(SYS_renameat2, AT_FDCWD, "x", AT_FDCWD, "e", 2 /* EXCHANGE */) == 0);
    CHECK(access("x/sub/b", F_OK) == 0);
    read_file("e");
    CHECK_STR(file_text, "X");
}

static int count_entries(const char *path) {
    DIR *d = opendir(path);
    CHECK(d);
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}
TEST(readdir_gives_each_entry_once) {
    CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0);
    static bool seen[3000];
    char name[20];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "entry-%d", i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && close(fd) == 0);
    }
    DIR *d = opendir(".");
    struct dirent *e;
    int dots = 0, n = 0;
    while ((e = readdir(d))) {
        int i;
        if (e->d_name[0] == '.') {
            dots++;
            continue;
        }
        CHECK(sscanf(e->d_name, "entry-%d", &i) == 1 && i >= 0 && i < 3000 && !seen[i]);
        CHECK(e->d_type == DT_REG || e->d_type == DT_UNKNOWN);
        CHECK(e->d_ino != 0);
        seen[i] = true;
        n++;
    }
    CHECK(n == 3000 && dots == 2);
    rewinddir(d);
    n = 0;
    while (readdir(d)) n++;
    CHECK_EQ(n, 3002);
}

TEST(telldir_cookies_come_back_to_the_same_entry) {
    char name[20], names[50][256];
    long cookie[51];
    for (int i = 0; i < 48; i++) snprintf(name, sizeof name, "f%d", i), write_file(name, "");
    DIR *d = opendir(".");
    struct dirent *e;
    int n = 0;
    cookie[0] = telldir(d);
    while ((e = readdir(d))) {
        CHECK(n < 50);
        strcpy(names[n++], e->d_name);
        cookie[n] = telldir(d);
    }
    CHECK_EQ(n, 50);
    for (int i = 49; i >= 0; i -= 7) {
        seekdir(d, cookie[i]);
        e = readdir(d);
        CHECK(e);
        CHECK_STR(e->d_name, names[i]);
    }
}

TEST(removing_while_reading_misses_nothing) {
    char name[20];
    for (int i = 0; i < 500; i++) snprintf(name, sizeof name, "f%d", i), write_file(name, "");
    DIR *d = opendir(".");
    struct dirent *e;
    while ((e = readdir(d)))
        if (e->d_name[0] == 'f') CHECK(unlink(e->d_name) == 0);
    closedir(d);
    CHECK_EQ(count_entries("."), 2);
}

TEST(getdents_with_a_small_buffer) {
    char name[60], buf[100];
    for (int i = 0; i < 30; i++) snprintf(name, sizeof name, "a-fairly-long-file-name-%d", i), write_file(name, "");
    int fd = open(".", O_RDONLY | O_DIRECTORY), total = 0;
    CHECK_ERR(syscall(SYS_getdents64, fd, buf, 10), EINVAL);
    for (;;) {
        int n = syscall(SYS_getdents64, fd, buf, sizeof buf);
        CHECK(n >= 0);
        if (n == 0) break;
        for (int at = 0; at < n; total++) {
            unsigned short len;
            memcpy(&len, buf + at + 16, 2);
            CHECK(len > 19 && len % 8 == 0);
            at += len;
        }
    }
    CHECK_EQ(total, 32);
    write_file("plain", "");
    CHECK_ERR(syscall(SYS_getdents64, open("plain", O_RDONLY), buf, 100), ENOTDIR);
}

TEST(a_removed_directory_is_empty_and_takes_no_files) {
    CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0);
    CHECK(rmdir("../d") == 0);
    CHECK_ERR(open("f", O_WRONLY | O_CREAT, 0600), ENOENT);
    char cwd[100];
    CHECK(syscall(SYS_getcwd, cwd, sizeof cwd) < 0 && errno == ENOENT);
    CHECK(chdir("/") == 0);
}

TEST(working_directory_and_fchdir) {
    char start[200], now[200];
    CHECK(getcwd(start, sizeof start));
    CHECK(mkdir("d", 0755) == 0 && mkdir("d/e", 0755) == 0);
    int fd = open("d", O_PATH);
    CHECK(chdir("d/e") == 0 && chdir("..") == 0 && getcwd(now, sizeof now));
    CHECK(strlen(now) == strlen(start) + 2 && !strcmp(now + strlen(start), "/d"));
    CHECK(rename("../d", "../moved") == 0 && getcwd(now, sizeof now));
    CHECK(!strcmp(now + strlen(start), "/moved"));
    CHECK(fchdir(fd) == 0);
    CHECK_ERR(syscall(SYS_getcwd, now, 3), ERANGE);
    write_file("f", "");
    CHECK_ERR(chdir("f"), ENOTDIR);
    CHECK(chdir("/../..") == 0 && getcwd(now, sizeof now));
    CHECK_STR(now, "/");
}

TEST(calls_relative_to_a_directory) {
    CHECK(mkdir("d", 0755) == 0);
    int d = open("d", O_RDONLY | O_DIRECTORY);
    int fd = openat(d, "f", O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0 && access("d/f", F_OK) == 0);
    CHECK(mkdirat(d, "sub", 0700) == 0 && symlinkat("f", d, "l") == 0 && linkat(d, "f", d, "g", 0) == 0);
    struct stat st;
    CHECK(fstatat(d, "l", &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode));
    CHECK(fstatat(d, "l", &st, 0) == 0 && st.st_nlink == 2);
    CHECK(fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && st.st_nlink == 2);
    CHECK_ERR(fstatat(fd, "", &st, 0), ENOENT);
    CHECK_ERR(openat(fd, "x", O_RDONLY), ENOTDIR);
    CHECK_ERR(openat(99, "x", O_RDONLY), EBADF);
    CHECK(openat(99, "/dev/null", O_RDONLY) >= 0);
    CHECK(renameat(d, "g", AT_FDCWD, "g") == 0 && unlinkat(d, "sub", AT_REMOVEDIR) == 0);
    CHECK_ERR(unlinkat(d, "f", AT_REMOVEDIR), ENOTDIR);
    CHECK(faccessat(d, "f", W_OK, 0) == 0);
}

TEST(modes_umask_and_owners) {
    umask(027);
    int fd = open("f", O_WRONLY | O_CREAT, 0777);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0750);
    CHECK(fchmod(fd, 06755) == 0 && stat("f", &st) == 0 && (st.st_mode & 07777) == 06755);
    CHECK(chown("f", 1234, 2345) == 0 && stat("f", &st) == 0);
    CHECK(st.st_uid == 1234 && st.st_gid == 2345 && (st.st_mode & 06000) == 0); /* set-id bits are dropped */
    CHECK(chown("f", -1, 77) == 0 && stat("f", &st) == 0 && st.st_uid == 1234 && st.st_gid == 77);
    CHECK(symlink("f", "l") == 0 && lchown("l", 5, 6) == 0);
    CHECK(lstat("l", &st) == 0 && st.st_uid == 5 && stat("l", &st) == 0 && st.st_uid == 1234);
    CHECK(mkdir("d", 02775) == 0 && chown("d", 0, 500) == 0 && chmod("d", 02775) == 0);
    CHECK(open("d/f", O_WRONLY | O_CREAT, 0644) >= 0 && stat("d/f", &st) == 0 && st.st_gid == 500);
    CHECK(mkdir("d/e", 0755) == 0 && stat("d/e", &st) == 0 && (st.st_mode & S_ISGID) && st.st_gid == 500);
}

TEST(permissions_bind_an_ordinary_user) {
    write_file("secret", "x");
    CHECK(chmod("secret", 0600) == 0 && chmod(".", 0755) == 0);
    write_file("script", "x");
    CHECK(chmod("script", 0644) == 0 && mkdir("open", 0777) == 0 && chmod("open", 01777) == 0);
    write_file("open/roots", "");
    CHECK(mkdir("closed", 0700) == 0);
    pid_t pid = CHILD({
        CHECK(setresgid(9999, 9999, 9999) == 0 && setresuid(9999, 9999, 9999) == 0);
        CHECK_ERR(open("secret", O_RDONLY), EACCES);
        CHECK(open("script", O_RDONLY) >= 0);
        CHECK_ERR(open("script", O_WRONLY), EACCES);
        CHECK_ERR(open("new", O_WRONLY | O_CREAT, 0600), EACCES);
        CHECK_ERR(access("closed/x", F_OK), EACCES);
        CHECK_ERR(chdir("closed"), EACCES);
        CHECK_ERR(unlink("script"), EACCES);
        CHECK_ERR(unlink("open/roots"), EPERM); /* sticky */
        CHECK(open("open/mine", O_WRONLY | O_CREAT, 0600) >= 0 && unlink("open/mine") == 0);
        CHECK_ERR(chmod("script", 0777), EPERM);
        CHECK_ERR(chown("script", 9999, -1), EPERM);
        CHECK_ERR(access("script", X_OK), EACCES);
        CHECK(access("script", R_OK) == 0);
        CHECK_ERR(mknod("open/dev", S_IFCHR | 0666, makedev(1, 3)), EPERM);
    });
    CHECK_EXIT(pid, 0);
    CHECK_ERR(access("script", X_OK), EACCES); /* root too needs one x bit */
    CHECK(access("secret", R_OK | W_OK) == 0);
}

TEST(times_are_set_kept_and_moved) {
    write_file("f", "x");
    struct timespec set[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    CHECK(utimensat(AT_FDCWD, "f", set, 0) == 0);
    struct stat st;
    CHECK(stat("f", &st) == 0);
    CHECK(st.st_atim.tv_sec == 1000000000 && st.st_atim.tv_nsec == 123456789);
    CHECK(st.st_mtim.tv_sec == 1100000000 && st.st_mtim.tv_nsec == 987654321);
    struct timespec omit[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
    CHECK(utimensat(AT_FDCWD, "f", omit, 0) == 0 && stat("f", &st) == 0);
    CHECK(st.st_atim.tv_sec == 1000000000);
    CHECK(llabs(st.st_mtim.tv_sec - time(NULL)) < 10);
    CHECK(utimensat(AT_FDCWD, "f", set, 0) == 0);
    int fd = open("f", O_WRONLY);
    CHECK(write(fd, "y", 1) == 1 && fstat(fd, &st) == 0 && llabs(st.st_mtim.tv_sec - time(NULL)) < 10);
    CHECK(futimens(fd, set) == 0);
    CHECK_ERR(utimensat(AT_FDCWD, "f", (struct timespec[2]){{0, 2000000000}, {0, 0}}, 0), EINVAL);
    CHECK(symlink("f", "l") == 0 && utimensat(AT_FDCWD, "l", set, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(lstat("l", &st) == 0 && st.st_mtim.tv_sec == 1100000000);
    CHECK(utimensat(AT_FDCWD, ".", set, 0) == 0);
    write_file("newer", "");
    CHECK(stat(".", &st) == 0 && st.st_mtim.tv_sec != 1100000000); /* a new entry touches the directory */
}

TEST(statx_agrees_with_stat) {
    write_file("f", "12345");
    struct statx sx;
    struct stat st;
    CHECK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &sx) == 0 && stat("f", &st) == 0);
    CHECK((sx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    CHECK(sx.stx_ino == st.st_ino && sx.stx_size == 5 && sx.stx_mode == st.st_mode && sx.stx_nlink == st.st_nlink);
    CHECK(sx.stx_mtime.tv_sec == st.st_mtim.tv_sec && sx.stx_mtime.tv_nsec == st.st_mtim.tv_nsec);
    CHECK(makedev(sx.stx_dev_major, sx.stx_dev_minor) == st.st_dev && sx.stx_blksize == (unsigned)st.st_blksize);
    CHECK_ERR(statx(AT_FDCWD, "f", 0x8000, STATX_BASIC_STATS, &sx), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "none", 0, STATX_BASIC_STATS, &sx), ENOENT);
}

TEST(fifos_and_device_nodes) {
    CHECK(mkfifo("p", 0600) == 0);
    struct stat st;
    CHECK(stat("p", &st) == 0 && S_ISFIFO(st.st_mode));
    CHECK_ERR(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
    pid_t pid = CHILD({
        int w = open("p", O_WRONLY);
        CHECK(w >= 0 && write(w, "hi", 2) == 2);
    });
    int r = open("p", O_RDONLY);
    char buf[3] = {0};
    CHECK(r >= 0 && read(r, buf, 2) == 2 && read(r, buf + 2, 1) == 0);
    CHECK_STR(buf, "hi");
    CHECK_EXIT(pid, 0);
    CHECK(mknod("reg", S_IFREG | 0600, 0) == 0 && stat("reg", &st) == 0 && S_ISREG(st.st_mode));
}

TEST(statfs_gives_plausible_numbers) {
    struct statfs fs;
    CHECK(statfs(".", &fs) == 0);
    CHECK(fs.f_bsize >= 512 && fs.f_blocks >= fs.f_bfree && fs.f_bfree >= fs.f_bavail && fs.f_namelen == 255);
    CHECK(statfs("/proc", &fs) == 0 && fs.f_type == 0x9fa0);
    CHECK_ERR(statfs("missing", &fs), ENOENT);
}

TEST(extended_attributes) {
    write_file("f", "x");
    if (setxattr("f", "user.one", "value", 5, 0) < 0) {
        CHECK_EQ(errno, EOPNOTSUPP); /* a file system may have none, but must say so */
        return;
    }
    char buf[100];
    CHECK_EQ(getxattr("f", "user.one", buf, 100), 5);
    CHECK(!memcmp(buf, "value", 5));
    CHECK_EQ(getxattr("f", "user.one", NULL, 0), 5);
    CHECK_ERR(getxattr("f", "user.one", buf, 2), ERANGE);
    CHECK_ERR(getxattr("f", "user.two", buf, 100), ENODATA);
    CHECK_ERR(setxattr("f", "user.one", "v", 1, XATTR_CREATE), EEXIST);
    CHECK_ERR(setxattr("f", "user.two", "v", 1, XATTR_REPLACE), ENODATA);
    ssize_t n = listxattr("f", buf, 100);
    CHECK(n >= 9 && memmem(buf, n, "user.one", 9));
    CHECK(removexattr("f", "user.one") == 0);
    CHECK_ERR(removexattr("f", "user.one"), ENODATA);
    CHECK_ERR(setxattr("f", "nonsense.x", "v", 1, 0), EOPNOTSUPP);
}

TEST(openat2_keeps_resolution_beneath) {
    struct { uint64_t flags, mode, resolve; } how = {O_RDONLY, 0, 0x08 /* BENEATH */};
    CHECK(mkdir("d", 0755) == 0);
    write_file("d/f", "");
    write_file("outside", "");
    CHECK(symlink("../outside", "d/out") == 0);
    int d = open("d", O_PATH);
    CHECK(syscall(SYS_openat2, d, "f", &how, sizeof how) >= 0);
    CHECK_ERR(syscall(SYS_openat2, d, "../outside", &how, sizeof how), EXDEV);
    CHECK_ERR(syscall(SYS_openat2, d, "out", &how, sizeof how), EXDEV);
    CHECK_ERR(syscall(SYS_openat2, d, "/etc", &how, sizeof how), EXDEV);
    how.resolve = 0x04; /* NO_SYMLINKS */
    CHECK_ERR(syscall(SYS_openat2, d, "out", &how, sizeof how), ELOOP);
    how.flags = ~0ULL;
    CHECK_ERR(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
}

TEST(chroot_moves_the_root) {
    CHECK(mkdir("jail", 0755) == 0 && mkdir("jail/in", 0755) == 0);
    CHECK(symlink("/in", "jail/link") == 0);
    pid_t pid = CHILD({
        CHECK(chroot("jail") == 0 && chdir("/") == 0);
        CHECK(access("/in", F_OK) == 0 && access("/../../in", F_OK) == 0 && access("/link", F_OK) == 0);
        CHECK_ERR(access("/proc", F_OK), ENOENT);
        char cwd[50];
        CHECK(getcwd(cwd, sizeof cwd));
        CHECK_STR(cwd, "/");
    });
    CHECK_EXIT(pid, 0);
}
