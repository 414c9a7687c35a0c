/* Memory: mmap kinds, mprotect, mremap, brk, fork, sharing, madvise, limits, /proc/self/maps. */
#include "check.h"
#include <setjmp.h>
#include <sys/uio.h>

#define PAGE 4096UL
static char *anonymous(size_t pages) {
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* True if the page can be read (the kernel is asked, nothing faults). */
static bool readable(void *p) {
    int q[2];
    CHECK(pipe(q) == 0);
    bool ok = write(q[1], p, 1) == 1;
    close(q[0]), close(q[1]);
    return ok;
}

/* The permissions of the mapping at p in /proc/self/maps, and its end; "" if there is none. */
static const char *mapped_as(void *p, unsigned long *start, unsigned long *end) {
    static char perms[8];
    read_file("/proc/self/maps");
    for (char *line = strtok(file_text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long a, b;
        CHECK(sscanf(line, "%lx-%lx %7s", &a, &b, perms) == 3);
        if (a <= (unsigned long)p && (unsigned long)p < b) {
            if (start) *start = a;
            if (end) *end = b;
            return perms;
        }
    }
    return "";
}

TEST(anonymous_memory_is_zero_and_writable) {
    char *p = anonymous(64);
    for (size_t i = 0; i < 64 * PAGE; i += 512) CHECK(p[i] == 0);
    memset(p, 7, 64 * PAGE);
    CHECK(munmap(p, 64 * PAGE) == 0);
    CHECK(!readable(p));
    CHECK(munmap(p, 64 * PAGE) == 0); /* unmapping nothing is no error */
}

TEST(arguments_of_mmap_are_checked) {
    CHECK_ERR(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
    CHECK_ERR(mmap((void *)1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    CHECK_ERR(mmap(NULL, 1UL << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 0, 100), EINVAL);
    CHECK_ERR(munmap((void *)1, PAGE), EINVAL);
    CHECK_ERR(munmap((void *)PAGE, 0), EINVAL);
    CHECK_ERR(munmap((void *)(1UL << 47), PAGE), EINVAL);
    int w = open("w", O_WRONLY | O_CREAT, 0600), r = open("w", O_RDONLY);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, w, 0), EACCES);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r, 0), EACCES);
    char *ro = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, r, 0);
    CHECK_ERR(mprotect(ro, PAGE, PROT_READ | PROT_WRITE), EACCES);
    int dir = open(".", O_RDONLY);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, dir, 0), ENODEV);
}

TEST(fixed_mappings_replace_and_noreplace_refuses) {
    char *p = anonymous(3);
    memset(p, 1, 3 * PAGE);
    CHECK(mmap(p + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + PAGE);
    CHECK(p[0] == 1 && p[PAGE] == 0 && p[2 * PAGE] == 1);
    CHECK_ERR(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    munmap(p + PAGE, PAGE);
    CHECK(mmap(p + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p + PAGE); /* a free hint is taken */
}

TEST(mprotect_changes_what_is_allowed) {
    char *p = anonymous(4);
    memset(p, 3, 4 * PAGE);
    CHECK(mprotect(p + PAGE, PAGE, PROT_READ) == 0);
    CHECK_STR(mapped_as(p + PAGE, NULL, NULL), "r--p");
    int zero = open("/dev/zero", O_RDONLY);
    CHECK_ERR(read(zero, p + PAGE, 1), EFAULT);
    CHECK_EQ(read(zero, p, 2 * PAGE), PAGE); /* what fits comes through */
    CHECK(mprotect(p + PAGE, PAGE, PROT_NONE) == 0);
    CHECK(!readable(p + PAGE));
    CHECK(mprotect(p, 4 * PAGE, PROT_READ | PROT_WRITE) == 0);
    CHECK(p[PAGE] == 3);
    unsigned long start, end;
    CHECK_STR(mapped_as(p, &start, &end), "rw-p");
    CHECK(end >= (unsigned long)p + 4 * PAGE);
    munmap(p + 2 * PAGE, PAGE);
    CHECK_ERR(mprotect(p, 4 * PAGE, PROT_READ), ENOMEM);
    CHECK_ERR(mprotect(p + 1, PAGE, PROT_READ), EINVAL);
}

TEST(a_hole_in_the_middle_splits_the_mapping) {
    char *p = anonymous(9);
    memset(p, 9, 9 * PAGE);
    CHECK(munmap(p + 4 * PAGE, PAGE) == 0);
    CHECK(readable(p + 3 * PAGE) && !readable(p + 4 * PAGE) && readable(p + 5 * PAGE));
    CHECK(p[8 * PAGE] == 9);
    CHECK_STR(mapped_as(p + 4 * PAGE, NULL, NULL), "");
}

TEST(private_file_mappings_copy_on_write) {
    write_file("f", "hello world");
    int fd = open("f", O_RDWR);
    char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(!memcmp(p, "hello world\0\0", 13));
    p[0] = 'J';
    char buf[12] = {0};
    CHECK(pread(fd, buf, 11, 0) == 11);
    CHECK_STR(buf, "hello world");
}

TEST(shared_file_mappings_and_read_write_see_each_other) {
    int fd = open("f", O_RDWR | O_CREAT, 0644);
    CHECK(ftruncate(fd, 3 * PAGE) == 0);
    char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *q = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    strcpy(p + PAGE, "through the map");
    CHECK_STR(q, "through the map");
    char buf[16];
    CHECK(pread(fd, buf, 16, PAGE) == 16);
    CHECK_STR(buf, "through the map");
    CHECK(pwrite(fd, "by write", 9, PAGE) == 9);
    CHECK_STR(p + PAGE, "by write");
    CHECK(msync(p, 3 * PAGE, MS_SYNC) == 0);
    close(fd);
    CHECK(unlink("f") == 0);
    CHECK_STR(q, "by write"); /* the mapping holds the file */
    CHECK_ERR(msync(p + 1, PAGE, MS_SYNC), EINVAL);
}

TEST(shared_anonymous_memory_is_shared_with_children) {
    volatile int *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *p = 5;
    pid_t pid = CHILD({
        CHECK(*p == 5);
        *p = 6;
    });
    CHECK_EXIT(pid, 0);
    CHECK(*p == 6);
    CHECK_STR(mapped_as((void *)p, NULL, NULL), "rw-s");
}

TEST(copy_on_write_over_three_generations) {
    char *p = anonymous(16);
    memset(p, 'a', 16 * PAGE);
    pid_t pid = CHILD({
        CHECK(p[5 * PAGE] == 'a');
        p[5 * PAGE] = 'b';
        pid_t grand = CHILD({
            CHECK(p[5 * PAGE] == 'b' && p[6 * PAGE] == 'a');
            memset(p, 'c', 16 * PAGE);
        });
        CHECK_EXIT(grand, 0);
        CHECK(p[5 * PAGE] == 'b' && p[6 * PAGE] == 'a');
    });
    p[6 * PAGE] = 'z';
    CHECK_EXIT(pid, 0);
    CHECK(p[5 * PAGE] == 'a' && p[6 * PAGE] == 'z');
}

TEST(private_file_pages_are_copied_by_fork_too) {
    write_file("f", "original");
    int fd = open("f", O_RDONLY);
    char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    p[0] = 'O';
    pid_t pid = CHILD({
        CHECK(p[0] == 'O' && p[1] == 'r');
        p[1] = 'R';
    });
    CHECK_EXIT(pid, 0);
    CHECK(p[1] == 'r');
}

TEST(mremap_grows_moves_and_shrinks) {
    char *p = anonymous(2);
    memset(p, 'm', 2 * PAGE);
    p = mremap(p, 2 * PAGE, 500 * PAGE, MREMAP_MAYMOVE);
    CHECK(p != MAP_FAILED);
    CHECK(p[0] == 'm' && p[2 * PAGE - 1] == 'm' && p[2 * PAGE] == 0);
    p[499 * PAGE] = 'e';
    CHECK(mremap(p, 500 * PAGE, PAGE, 0) == p);
    CHECK(!readable(p + PAGE));
    char *q = anonymous(8);
    CHECK(mremap(p, PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + PAGE) == q + PAGE);
    CHECK(q[PAGE] == 'm' && q[2 * PAGE] == 0 && !readable(p));
    char *wall = anonymous(2);
    CHECK(mprotect(wall + PAGE, PAGE, PROT_READ) == 0);
    CHECK_ERR(mremap(wall, PAGE, 2 * PAGE, 0), ENOMEM);
    CHECK_ERR(mremap(wall + 1, PAGE, PAGE, 0), EINVAL);
    char *gone = anonymous(1);
    CHECK(munmap(gone, PAGE) == 0);
    CHECK_ERR(mremap(gone, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
    CHECK_ERR(mremap(wall, PAGE, 0, 0), EINVAL);
}

TEST(mremap_of_a_shared_mapping_of_size_zero_duplicates) {
    char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *q = mremap(p, 0, PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && q != p);
    strcpy(q, "same");
    CHECK_STR(p, "same");
}

TEST(brk_moves_and_new_memory_is_zero) {
    char *start = (char *)syscall(SYS_brk, 0);
    CHECK((char *)syscall(SYS_brk, start + 10 * PAGE) == start + 10 * PAGE);
    for (unsigned i = 0; i < 9 * PAGE; i += 100) CHECK(start[i] == 0);
    memset(start, 1, 10 * PAGE);
    CHECK((char *)syscall(SYS_brk, start) == start);
    char *page_up = (char *)(((uintptr_t)start + PAGE - 1) & -PAGE);
    CHECK(!readable(page_up + PAGE));
    CHECK((char *)syscall(SYS_brk, start + 3 * PAGE) == start + 3 * PAGE);
    CHECK(page_up[PAGE] == 0);
    CHECK((char *)syscall(SYS_brk, 8) == start + 3 * PAGE); /* refused: the old value */
    read_file("/proc/self/maps");
    CHECK(strstr(file_text, "[heap]"));
}

TEST(limits_on_memory_hold) {
    pid_t pid = CHILD({
        struct rlimit as = {200 << 20, 200 << 20};
        CHECK(setrlimit(RLIMIT_AS, &as) == 0);
        CHECK_ERR(mmap(NULL, 300 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
        char *p = anonymous(100);
        CHECK_ERR(mremap(p, 100 * PAGE, 300 << 20, MREMAP_MAYMOVE), ENOMEM);
    });
    CHECK_EXIT(pid, 0);
    pid = CHILD({
        struct rlimit data = {1 << 20, 1 << 20};
        CHECK(setrlimit(RLIMIT_DATA, &data) == 0);
        char *now = (char *)syscall(SYS_brk, 0);
        CHECK((char *)syscall(SYS_brk, now + (64 << 20)) == now);
    });
    CHECK_EXIT(pid, 0);
}

TEST(madvise_dontneed_zeroes_private_and_rereads_files) {
    char *p = anonymous(2);
    memset(p, 5, 2 * PAGE);
    CHECK(madvise(p, PAGE, MADV_DONTNEED) == 0);
    CHECK(p[0] == 0 && p[PAGE] == 5);
    write_file("f", "from the file");
    int fd = open("f", O_RDONLY);
    char *q = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    q[0] = 'X';
    CHECK(madvise(q, PAGE, MADV_DONTNEED) == 0);
    CHECK_STR(q, "from the file");
    CHECK(madvise(p, 2 * PAGE, MADV_WILLNEED) == 0);
    CHECK_ERR(madvise(p + 1, PAGE, MADV_DONTNEED), EINVAL);
    CHECK_ERR(madvise(p, PAGE, 12345), EINVAL);
    munmap(p, 2 * PAGE);
    CHECK_ERR(madvise(p, PAGE, MADV_DONTNEED), ENOMEM);
}

TEST(madvise_dontfork_and_wipeonfork) {
    char *gone = anonymous(1);
    char *wiped = anonymous(1);
    gone[0] = wiped[0] = 1;
    CHECK(madvise(gone, PAGE, MADV_DONTFORK) == 0);
    CHECK(madvise(wiped, PAGE, MADV_WIPEONFORK) == 0);
    pid_t pid = CHILD({
        CHECK(!readable(gone));
        CHECK(wiped[0] == 0);
    });
    CHECK_EXIT(pid, 0);
    CHECK(gone[0] == 1 && wiped[0] == 1);
}

TEST(memfd_can_be_mapped_resized_and_sealed) {
    int fd = memfd_create("name", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 2 * PAGE) == 0);
    char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(p, "text");
    char buf[5];
    CHECK(pread(fd, buf, 5, 0) == 5);
    CHECK_STR(buf, "text");
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    munmap(p, 2 * PAGE);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK);
    CHECK_ERR(pwrite(fd, "x", 1, 0), EPERM);
    CHECK_ERR(ftruncate(fd, PAGE), EPERM);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    char link[100] = {0}, path[50];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, link, 99) > 0);
    CHECK_STR(link, "/memfd:name (deleted)");
}

TEST(mlock_and_mincore) {
    char *p = anonymous(4);
    unsigned char vec[4];
    CHECK(mincore(p, 4 * PAGE, vec) == 0);
    CHECK(mlock(p, 4 * PAGE) == 0);
    CHECK(mincore(p, 4 * PAGE, vec) == 0);
    for (int i = 0; i < 4; i++) CHECK(vec[i] & 1);
    CHECK(munlock(p, 4 * PAGE) == 0);
    munmap(p, 4 * PAGE);
    CHECK_ERR(mincore(p, PAGE, vec), ENOMEM);
    CHECK_ERR(mlock(p, PAGE), ENOMEM);
}

TEST(mincore_tells_which_pages_are_there) {
    char *p = anonymous(4);
    unsigned char vec[5] = {9, 9, 9, 9, 9};
    p[PAGE] = 1;
    CHECK(mincore(p, 3 * PAGE + 1, vec) == 0);
    CHECK(!(vec[0] & 1) && vec[1] & 1 && !(vec[2] & 1) && !(vec[3] & 1) && vec[4] == 9);
    CHECK(madvise(p + PAGE, PAGE, MADV_DONTNEED) == 0 && mincore(p, 2 * PAGE, vec) == 0 && !(vec[1] & 1));
    CHECK(mlock2(p, PAGE, MLOCK_ONFAULT) == 0 && mincore(p, PAGE, vec) == 0 && !(vec[0] & 1));
    CHECK(mincore(p, 0, vec) == 0);
    CHECK_ERR(mincore(p + 1, PAGE, vec), EINVAL);
    CHECK_ERR(mincore(p, PAGE, NULL), EFAULT);
    CHECK_ERR(mincore(p, PAGE, (void *)(1UL << 62)), EFAULT);
    CHECK_ERR(mincore(p, PAGE, (void *)-1), EFAULT);
    CHECK_ERR(mincore(p, 1UL << 62, vec), ENOMEM);
    CHECK_ERR(mincore((void *)-PAGE, PAGE, vec), ENOMEM);
    CHECK(munmap(p + PAGE, PAGE) == 0);
    p[0] = 1;
    CHECK_ERR(mincore(p, 3 * PAGE, vec), ENOMEM);
    CHECK(mprotect(p + 2 * PAGE, PAGE, PROT_NONE) == 0);
    CHECK_ERR(mlock(p + 2 * PAGE, PAGE), ENOMEM);
}

TEST(map_populate_and_noreserve_and_large_sizes) {
    char *p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    CHECK(p != MAP_FAILED && p[63 * PAGE] == 0);
    char *huge = mmap(NULL, 64UL << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(huge != MAP_FAILED);
    CHECK(mprotect(huge + (32UL << 30), PAGE, PROT_READ | PROT_WRITE) == 0);
    huge[32UL << 30] = 1;
    CHECK(munmap(huge, 64UL << 30) == 0);
}

TEST(process_vm_readv_and_writev_reach_a_child) {
    char *p = anonymous(1);
    int q[2];
    CHECK(pipe(q) == 0);
    strcpy(p, "parent");
    pid_t pid = CHILD({
        strcpy(p, "child!");
        CHECK(write(q[1], "x", 1) == 1);
        for (;;) pause();
    });
    char c, buf[7];
    CHECK(read(q[0], &c, 1) == 1);
    struct iovec local = {buf, 7}, remote = {p, 7};
    CHECK_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), 7);
    CHECK_STR(buf, "child!");
    strcpy(buf, "poked!");
    CHECK_EQ(process_vm_writev(pid, &local, 1, &remote, 1, 0), 7);
    memset(buf, 0, 7);
    CHECK_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), 7);
    CHECK_STR(buf, "poked!");
    CHECK_STR(p, "parent");
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(maps_agree_with_what_was_mapped) {
    write_file("some-file", "x");
    int fd = open("some-file", O_RDONLY);
    char *p = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    char *q = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, PAGE);
    struct stat st;
    fstat(fd, &st);
    read_file("/proc/self/maps");
    unsigned long last_end = 0;
    int found = 0;
    for (char *line = strtok(file_text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long a, b, offset, inode;
        unsigned major, minor;
        char perms[8], name[300] = {0};
        CHECK(sscanf(line, "%lx-%lx %7s %lx %x:%x %lu %299s", &a, &b, perms, &offset, &major, &minor, &inode, name) >= 7);
        CHECK(a >= last_end && b > a && !(a & (PAGE - 1)) && !(b & (PAGE - 1)));
        last_end = b;
        if (a == (unsigned long)p) {
            CHECK(b == a + 3 * PAGE && !strcmp(perms, "r--p") && offset == 0 && inode == st.st_ino);
            CHECK(strlen(name) > 10 && !strcmp(name + strlen(name) - 10, "/some-file"));
            found++;
        }
        if (a == (unsigned long)q) {
            CHECK(b == a + PAGE && !strcmp(perms, "r-xp") && offset == PAGE);
            found++;
        }
    }
    CHECK_EQ(found, 2);
}

TEST(code_can_be_written_then_run) {
    unsigned char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (int i = 0; i < 10; i++) {
        unsigned char code[] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3};
        memcpy(p, code, sizeof code);
        CHECK_EQ(((int (*)(void))p)(), i);
    }
}

TEST(many_mappings) {
    enum { N = 1000 };
    static char *p[N];
    for (int i = 0; i < N; i++) {
        p[i] = mmap(NULL, PAGE, i & 1 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p[i] != MAP_FAILED);
        if (!(i & 1)) *p[i] = (char)i;
    }
    for (int i = 0; i < N; i += 2) CHECK(*p[i] == (char)i);
    for (int i = 0; i < N; i++) CHECK(munmap(p[i], PAGE) == 0);
}
