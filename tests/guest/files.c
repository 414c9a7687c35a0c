/* Files: open flags, offsets, holes, append, truncate, vectors, splice-like calls, descriptors, locks. */
#include "check.h"
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

static int open_rw(const char *name) {
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    return fd;
}

TEST(open_creates_excludes_and_truncates) {
    int fd = open("f", O_WRONLY | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0 && write(fd, "12345", 5) == 5);
    CHECK_ERR(open("f", O_WRONLY | O_CREAT | O_EXCL, 0640), EEXIST);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == 5 && (st.st_mode & 07777) == 0640 && S_ISREG(st.st_mode));
    CHECK(open("f", O_WRONLY | O_TRUNC) >= 0);
    CHECK(fstat(fd, &st) == 0 && st.st_size == 0);
    CHECK_ERR(open("missing", O_RDONLY), ENOENT);
    CHECK_ERR(open("missing/x", O_RDONLY | O_CREAT, 0600), ENOENT);
    CHECK_ERR(open("f/x", O_RDONLY), ENOTDIR);
    CHECK_ERR(open(".", O_WRONLY), EISDIR);
    CHECK_ERR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_ERR(open("", O_RDONLY), ENOENT);
    CHECK_ERR(open("x/", O_WRONLY | O_CREAT, 0600), EISDIR);
    char name[300];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    CHECK_ERR(open(name, O_RDONLY), ENAMETOOLONG);
    name[255] = 0;
    CHECK(open(name, O_RDONLY | O_CREAT, 0600) >= 0);
    char *path = malloc(5000);
    memset(path, '/', 4999);
    path[4999] = 0;
    CHECK_ERR(open(path, O_RDONLY), ENAMETOOLONG);
}

TEST(access_modes_are_enforced) {
    write_file("f", "data");
    char c;
    int r = open("f", O_RDONLY), w = open("f", O_WRONLY), p = open("f", O_PATH);
    CHECK_ERR(write(r, "x", 1), EBADF);
    CHECK_ERR(read(w, &c, 1), EBADF);
    CHECK_ERR(read(p, &c, 1), EBADF);
    CHECK_ERR(ftruncate(r, 0), EINVAL);
    struct stat st;
    CHECK(fstat(p, &st) == 0 && st.st_size == 4);
    CHECK_EQ(fcntl(w, F_GETFL) & O_ACCMODE, O_WRONLY);
    CHECK_ERR(read(-1, &c, 1), EBADF);
    CHECK_ERR(read(5000, &c, 1), EBADF);
    CHECK_ERR(read(open(".", O_RDONLY), &c, 1), EISDIR);
}

TEST(append_writes_at_the_end_whatever_the_offset) {
    write_file("f", "abc");
    int a = open("f", O_RDWR | O_APPEND), b = open("f", O_RDWR | O_APPEND);
    CHECK(write(a, "1", 1) == 1 && write(b, "2", 1) == 1 && write(a, "3", 1) == 1);
    CHECK(lseek(a, 0, SEEK_SET) == 0 && write(a, "4", 1) == 1);
    CHECK_EQ(lseek(a, 0, SEEK_CUR), 7);
    read_file("f");
    CHECK_STR(file_text, "abc1234");
    CHECK(fcntl(a, F_SETFL, 0) == 0 && pwrite(a, "X", 1, 0) == 1);
    read_file("f");
    CHECK_STR(file_text, "Xbc1234");
}

TEST(seek_and_holes) {
    int fd = open_rw("f");
    CHECK(pwrite(fd, "x", 1, 1 << 20) == 1);
    CHECK_EQ(lseek(fd, 0, SEEK_END), (1 << 20) + 1);
    char buf[100];
    CHECK(pread(fd, buf, 100, 5000) == 100);
    for (int i = 0; i < 100; i++) CHECK(buf[i] == 0);
    CHECK_EQ(pread(fd, buf, 100, 1 << 20), 1);
    CHECK_EQ(pread(fd, buf, 100, 1 << 21), 0);
    CHECK_EQ(lseek(fd, 10, SEEK_SET), 10);
    CHECK_EQ(lseek(fd, -5, SEEK_CUR), 5);
    CHECK_ERR(lseek(fd, -6, SEEK_CUR), EINVAL);
    CHECK_ERR(lseek(fd, 0, 77), EINVAL);
    CHECK_ERR(lseek(fd, (1 << 20) + 1, SEEK_DATA), ENXIO);
    CHECK_EQ(lseek(fd, 1 << 20, SEEK_HOLE), (1 << 20) + 1);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_ERR(lseek(p[0], 0, SEEK_CUR), ESPIPE);
    CHECK_ERR(pread(p[0], buf, 1, 0), ESPIPE);
    CHECK_ERR(pread(fd, buf, 1, -1), EINVAL);
}

TEST(truncate_grows_with_zeros_and_cuts) {
    write_file("f", "0123456789");
    CHECK(truncate("f", 4) == 0);
    CHECK(truncate("f", 8) == 0);
    CHECK_EQ(read_file("f"), 8);
    CHECK(!memcmp(file_text, "0123\0\0\0\0", 8));
    CHECK_ERR(truncate("f", -1), EINVAL);
    CHECK_ERR(truncate("missing", 0), ENOENT);
    CHECK_ERR(truncate(".", 0), EISDIR);
    int fd = open("f", O_RDWR);
    CHECK(ftruncate(fd, 100000) == 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == 100000);
}

TEST(fallocate_and_file_size_limit) {
    int fd = open_rw("f");
    CHECK(posix_fallocate(fd, 0, 10000) == 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == 10000);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {20000, 20000};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_EQ(pwrite(fd, file_text, 100, 19990), 10);
    CHECK_ERR(pwrite(fd, "x", 1, 20000), EFBIG);
    CHECK_ERR(ftruncate(fd, 20001), EFBIG);
    signal(SIGXFSZ, SIG_DFL);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    CHECK_KILLED(CHILD(pwrite(fd, "x", 1, 20000)), SIGXFSZ);
}

TEST(vectors_read_and_write_in_order) {
    int fd = open_rw("f");
    struct iovec out[3] = {{"abc", 3}, {"", 0}, {"defg", 4}};
    CHECK_EQ(writev(fd, out, 3), 7);
    CHECK_EQ(pwritev(fd, out, 3, 7), 7);
    char a[2], b[20] = {0};
    struct iovec in[2] = {{a, 2}, {b, 19}};
    CHECK_EQ(preadv(fd, in, 2, 0), 14);
    CHECK(!memcmp(a, "ab", 2));
    CHECK_STR(b, "cdefgabcdefg");
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 7);
    CHECK_EQ(preadv2(fd, in, 2, -1, 0), 7);
    CHECK_ERR(preadv(fd, in, -1, 0), EINVAL);
    CHECK_ERR(preadv(fd, in, 1025, 0), EINVAL);
    struct iovec bad = {a, SIZE_MAX};
    CHECK_ERR(readv(fd, &bad, 1), EINVAL);
}

TEST(a_big_write_and_read_come_through_whole) {
    enum { SIZE = 5 << 20 };
    char *data = malloc(SIZE), *back = malloc(SIZE);
    for (int i = 0; i < SIZE; i++) data[i] = (char)(i * 7 + (i >> 12));
    int fd = open_rw("f");
    CHECK_EQ(write(fd, data, SIZE), SIZE);
    CHECK_EQ(pread(fd, back, SIZE, 0), SIZE);
    CHECK(!memcmp(data, back, SIZE));
    CHECK_EQ(pread(fd, back, SIZE, 12345), SIZE - 12345);
    CHECK(!memcmp(data + 12345, back, SIZE - 12345));
}

TEST(an_unlinked_file_lives_while_it_is_open) {
    int fd = open_rw("f");
    CHECK(write(fd, "alive", 5) == 5 && unlink("f") == 0);
    CHECK_ERR(open("f", O_RDONLY), ENOENT);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 5);
    char buf[5];
    CHECK(pread(fd, buf, 5, 0) == 5 && !memcmp(buf, "alive", 5));
    char path[64], link[300] = {0};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, link, 299) > 0);
    CHECK(strlen(link) > 12 && !strcmp(link + strlen(link) - 12, "/f (deleted)"));
    int again = open(path, O_RDONLY);
    CHECK(again >= 0 && read(again, buf, 5) == 5);
}

TEST(o_tmpfile_can_be_linked_in) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    if (fd < 0 && errno == EOPNOTSUPP) return; /* a file system may say so */
    CHECK(fd >= 0 && write(fd, "later", 5) == 5);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    read_file("named");
    CHECK_STR(file_text, "later");
}

TEST(dup_shares_the_offset_and_open_does_not) {
    write_file("f", "0123456789");
    int a = open("f", O_RDONLY), b = dup(a), c = open("f", O_RDONLY);
    char x;
    CHECK(read(a, &x, 1) == 1 && read(b, &x, 1) == 1 && x == '1');
    CHECK(read(c, &x, 1) == 1 && x == '0');
    CHECK_EQ(dup2(a, 100), 100);
    CHECK_EQ(dup2(a, a), a);
    CHECK_ERR(dup3(a, a, 0), EINVAL);
    CHECK_EQ(dup3(a, 101, O_CLOEXEC), 101);
    CHECK_EQ(fcntl(101, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(100, F_GETFD), 0);
    CHECK_EQ(fcntl(a, F_DUPFD, 200), 200);
    CHECK_EQ(fcntl(a, F_DUPFD_CLOEXEC, 200), 201);
    CHECK_EQ(fcntl(201, F_GETFD), FD_CLOEXEC);
    CHECK(fcntl(201, F_SETFD, 0) == 0 && fcntl(201, F_GETFD) == 0);
    CHECK_ERR(dup(-1), EBADF);
    CHECK_ERR(dup2(a, -1), EBADF);
}

TEST(the_lowest_free_descriptor_is_used_up_to_the_limit) {
    int a = open("/dev/null", O_RDONLY), b = open("/dev/null", O_RDONLY);
    CHECK(b == a + 1);
    close(a);
    CHECK_EQ(open("/dev/null", O_RDONLY), a);
    struct rlimit few = {20, 20};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    int fd, last = -1;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
    CHECK_EQ(errno, EMFILE);
    CHECK_EQ(last, 19);
    CHECK_ERR(dup(0), EMFILE);
    CHECK_ERR(dup2(0, 20), EBADF);
    CHECK_ERR(pipe((int[2]){0}), EMFILE);
}

TEST(close_range_closes_or_marks) {
    CHECK(dup2(0, 50) == 50 && dup2(0, 51) == 51 && dup2(0, 52) == 52);
    CHECK(close_range(50, 51, 0) == 0);
    CHECK_ERR(fcntl(50, F_GETFD), EBADF);
    CHECK_EQ(fcntl(52, F_GETFD), 0);
    CHECK(close_range(52, ~0U, CLOSE_RANGE_CLOEXEC) == 0);
    CHECK_EQ(fcntl(52, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(close_range(5, 4, 0), EINVAL);
}

TEST(sendfile_and_copy_file_range_and_splice) {
    write_file("a", "0123456789");
    int in = open("a", O_RDONLY), out = open_rw("b"), p[2];
    off_t offset = 2;
    CHECK_EQ(sendfile(out, in, &offset, 3), 3);
    CHECK_EQ(offset, 5);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 0);
    CHECK_EQ(sendfile(out, in, NULL, 100), 10);
    CHECK_EQ(sendfile(out, in, NULL, 100), 0);
    read_file("b");
    CHECK_STR(file_text, "2340123456789");
    loff_t from = 1, to = 0;
    CHECK_EQ(copy_file_range(in, &from, out, &to, 4, 0), 4);
    CHECK(from == 5 && to == 4);
    read_file("b");
    CHECK_STR(file_text, "1234123456789");
    CHECK(pipe(p) == 0);
    from = 7;
    CHECK_EQ(splice(in, &from, p[1], NULL, 100, 0), 3);
    char buf[5] = {0};
    CHECK_EQ(read(p[0], buf, 4), 3);
    CHECK_STR(buf, "789");
    CHECK_ERR(splice(in, NULL, out, NULL, 10, 0), EINVAL);
}

TEST(record_locks_belong_to_the_process) {
    int fd = open_rw("f");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    pid_t owner = getpid();
    pid_t pid = CHILD({
        struct flock other = {.l_type = F_RDLCK, .l_start = 15, .l_len = 1};
        CHECK_ERR(fcntl(fd, F_SETLK, &other), EAGAIN);
        CHECK(fcntl(fd, F_GETLK, &other) == 0);
        CHECK(other.l_type == F_WRLCK && other.l_start == 10 && other.l_len == 10 && other.l_pid == owner);
        other = (struct flock){.l_type = F_WRLCK, .l_start = 20, .l_len = 5};
        CHECK(fcntl(fd, F_SETLK, &other) == 0);
    });
    CHECK_EXIT(pid, 0);
    close(dup(fd)); /* closing any descriptor of the file drops the locks */
    pid = CHILD({
        struct flock other = {.l_type = F_WRLCK};
        CHECK(fcntl(fd, F_SETLK, &other) == 0);
    });
    CHECK_EXIT(pid, 0);
}

TEST(a_blocking_lock_waits_and_deadlock_is_found) {
    int fd = open_rw("f"), p[2];
    struct flock lock = {.l_type = F_WRLCK, .l_start = 0, .l_len = 1};
    CHECK(pipe(p) == 0 && fcntl(fd, F_SETLK, &lock) == 0);
    pid_t pid = CHILD({
        struct flock second = {.l_type = F_WRLCK, .l_start = 1, .l_len = 1};
        CHECK(fcntl(fd, F_SETLK, &second) == 0);
        CHECK(write(p[1], "x", 1) == 1);
        struct flock first = {.l_type = F_WRLCK, .l_start = 0, .l_len = 1};
        CHECK(fcntl(fd, F_SETLKW, &first) == 0); /* until the parent lets go */
    });
    char c;
    CHECK(read(p[0], &c, 1) == 1);
    wait_blocked(pid);
    lock.l_start = 1;
    CHECK_ERR(fcntl(fd, F_SETLKW, &lock), EDEADLK);
    lock = (struct flock){.l_type = F_UNLCK};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    CHECK_EXIT(pid, 0);
}

TEST(open_file_description_locks) {
    int a = open_rw("f"), b = open_rw("f");
    struct flock lock = {.l_type = F_WRLCK, .l_start = 0, .l_len = 10};
    CHECK(fcntl(a, F_OFD_SETLK, &lock) == 0);
    lock.l_pid = 0;
    CHECK_ERR(fcntl(b, F_OFD_SETLK, &lock), EAGAIN);
    struct flock ask = {.l_type = F_RDLCK, .l_start = 5, .l_len = 1};
    CHECK(fcntl(b, F_OFD_GETLK, &ask) == 0 && ask.l_type == F_WRLCK && ask.l_pid == -1);
    close(dup(a));
    CHECK_ERR(fcntl(b, F_OFD_SETLK, &lock), EAGAIN);
    close(a);
    CHECK(fcntl(b, F_OFD_SETLK, &lock) == 0);
}

TEST(flock_is_per_description) {
    int a = open_rw("f"), b = open_rw("f"), a2 = dup(a);
    CHECK(flock(a, LOCK_EX) == 0);
    CHECK(flock(a2, LOCK_EX | LOCK_NB) == 0);
    CHECK_ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    CHECK(flock(a2, LOCK_SH) == 0);
    CHECK(flock(b, LOCK_SH | LOCK_NB) == 0);
    CHECK_ERR(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK); /* a failed conversion loses the lock */
    CHECK(flock(a, LOCK_SH) == 0 && flock(b, LOCK_UN) == 0);
    pid_t pid = CHILD({
        close(a), close(a2);
        CHECK(flock(b, LOCK_EX) == 0); /* waits until the parent's two descriptors are closed */
    });
    wait_blocked(pid);
    close(a);
    CHECK(waitpid(pid, NULL, WNOHANG) == 0);
    close(a2);
    CHECK_EXIT(pid, 0);
    CHECK_ERR(flock(b, 0), EINVAL);
}

TEST(ioctls_every_file_knows) {
    int fd = open_rw("f"), n = -1;
    CHECK(write(fd, "12345", 5) == 5 && lseek(fd, 2, SEEK_SET) == 2);
    CHECK(ioctl(fd, FIONREAD, &n) == 0 && n == 3);
    CHECK(ioctl(fd, FIOCLEX) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(ioctl(fd, FIONCLEX) == 0 && fcntl(fd, F_GETFD) == 0);
    int on = 1;
    CHECK(ioctl(fd, FIONBIO, &on) == 0 && (fcntl(fd, F_GETFL) & O_NONBLOCK));
    CHECK_ERR(ioctl(fd, TIOCGWINSZ, file_text), ENOTTY);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0 && syncfs(fd) == 0);
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0);
}

TEST(device_files) {
    char buf[64];
    memset(buf, 1, sizeof buf);
    int zero = open("/dev/zero", O_RDWR), null = open("/dev/null", O_RDWR), full = open("/dev/full", O_RDWR);
    int urandom = open("/dev/urandom", O_RDONLY);
    CHECK(read(zero, buf, 64) == 64 && buf[0] == 0 && buf[63] == 0 && write(zero, buf, 64) == 64);
    CHECK(read(null, buf, 64) == 0 && write(null, buf, 64) == 64);
    CHECK(read(full, buf, 64) == 64);
    CHECK_ERR(write(full, buf, 64), ENOSPC);
    CHECK(read(urandom, buf, 64) == 64);
    int different = 0;
    for (int i = 1; i < 64; i++) different += buf[i] != buf[0];
    CHECK(different > 30);
    struct stat st;
    CHECK(fstat(null, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0x103);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    CHECK(map != MAP_FAILED && map[9] == 0);
}
