// Large transfers between files and memory, which a sandbox may leave to somebody else: they return what they would return,
// whatever becomes of the file, its number and the memory meanwhile.
#include "check.h"

enum { PAGE = 4096, BIG = 1 << 20, ODD = BIG + 123, OFTEN = 40 };

static unsigned char *some_memory(size_t size) {
    unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static unsigned char byte_of(int file, long at) {
    return (unsigned char)(file * 31 + at * 7 + (at >> 12));
}

static int file_with(const char *name, int file, long size) {
    unsigned char *data = some_memory(size);
    for (long i = 0; i < size; i++) data[i] = byte_of(file, i);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    for (long done = 0; done < size;) {
        long n = pwrite(fd, data + done, size - done, done);
        CHECK(n > 0);
        done += n;
    }
    munmap(data, size);
    return fd;
}

static void is_of(const unsigned char *got, int file, long from, long count) {
    for (long i = 0; i < count; i++)
        if (got[i] != byte_of(file, from + i)) fail(__FILE__, __LINE__, "byte %ld of file %d", from + i, file);
}

TEST(reads_at_an_offset_end_where_the_file_does) {
    int fd = file_with("f", 1, ODD), only = open("f", O_RDONLY);
    unsigned char *memory = some_memory(2 * BIG);
    static const long counts[] = {PAGE, 65535, 65536, 65537, 200000, BIG, 2 * BIG - 1};
    static const long offsets[] = {0, 1, 123, PAGE - 1, BIG - 65536, BIG - 1, ODD - 1, ODD, ODD + 1, 1L << 40};
    CHECK(only >= 0);
    for (int round = 0; round < OFTEN; round++)
        for (unsigned c = 0; c < sizeof counts / sizeof *counts; c++) {
            long at = offsets[(round + c) % (sizeof offsets / sizeof *offsets)], count = counts[c];
            long want = at >= ODD ? 0 : count < ODD - at ? count : ODD - at;
            memory[want] = 0xee;
            CHECK_EQ(pread(round % 2 ? fd : only, memory, count, at), want);
            CHECK_EQ(memory[want], 0xee);
            is_of(memory, 1, at, want);
        }
    CHECK(lseek(fd, 0, SEEK_CUR) == 0 && lseek(only, 0, SEEK_CUR) == 0);
}

TEST(reads_in_sequence_come_through_whole) {
    file_with("f", 1, ODD);
    int fd = open("f", O_RDONLY);
    unsigned char *memory = some_memory(2 * BIG);
    for (int round = 0; round < OFTEN; round++) {
        long count = 65536 + round * 12345, at = 0;
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
        for (long n; (n = read(fd, memory, count)) != 0; at += n) {
            CHECK_EQ(n, count < ODD - at ? count : ODD - at);
            is_of(memory, 1, at, n);
            CHECK_EQ(lseek(fd, 0, SEEK_CUR), at + n);
        }
        CHECK_EQ(at, ODD);
    }
}

TEST(a_hole_in_the_memory_ends_a_read) {
    int fd = file_with("f", 1, BIG), none = open("/dev/null", O_WRONLY);
    for (int round = 0; round < OFTEN; round++) {
        long hole = (round % 20) * 12 * PAGE;
        unsigned char *memory = some_memory(BIG);
        if (round % 2) CHECK(munmap(memory + hole, PAGE) == 0);
        else CHECK(mprotect(memory + hole, PAGE, PROT_READ) == 0);
        if (hole == 0) {
            CHECK_ERR(pread(fd, memory, BIG, 0), EFAULT);
        } else {
            CHECK_EQ(pread(fd, memory, BIG, 0), hole);
            is_of(memory, 1, 0, hole);
            CHECK(lseek(fd, PAGE, SEEK_SET) == PAGE);
            CHECK_EQ(read(fd, memory, BIG / 2), hole < BIG / 2 ? hole : BIG / 2);
            CHECK_EQ(lseek(fd, 0, SEEK_CUR), PAGE + (hole < BIG / 2 ? hole : BIG / 2));
        }
        munmap(memory, BIG);
    }
    CHECK_ERR(pread(fd, (void *)-4096L, BIG, 0), EFAULT);
    unsigned char *memory = some_memory(BIG);
    CHECK_ERR(pread(none, memory, BIG, 0), EBADF);
    CHECK_ERR(pread(fd, memory, BIG, -1), EINVAL);
    CHECK_ERR(pread(open(".", O_RDONLY), memory, BIG, 0), EISDIR);
    CHECK_ERR(pread(open("f", O_PATH), memory, BIG, 0), EBADF);
}

TEST(a_number_stands_for_what_is_open_there_now) {
    int one = file_with("one", 1, BIG), two = file_with("two", 2, BIG), three = file_with("three", 3, BIG);
    unsigned char *memory = some_memory(BIG);
    int fd = dup(one);
    for (int round = 0; round < OFTEN; round++) {
        CHECK(dup2(one, fd) == fd && pread(fd, memory, BIG, 0) == BIG);
        is_of(memory, 1, 0, BIG);
        CHECK(dup2(two, fd) == fd && pread(fd, memory, BIG, 0) == BIG);
        is_of(memory, 2, 0, BIG);
        CHECK(close(fd) == 0);
        CHECK_ERR(pread(fd, memory, BIG, 0), EBADF);
        CHECK_ERR(close(fd), EBADF);
        CHECK(open("three", O_RDONLY) == fd && pread(fd, memory, BIG, 0) == BIG);
        is_of(memory, 3, 0, BIG);
        CHECK(pread(three, memory, BIG, 0) == BIG && pread(two, memory, BIG, 0) == BIG);
        is_of(memory, 2, 0, BIG);
        for (int other = 90; other < 110; other += 2) {
            CHECK(dup2(one, other) == other && pread(other, memory, BIG / 2, BIG / 2) == BIG / 2);
            is_of(memory, 1, BIG / 2, BIG / 2);
            CHECK(close(other) == 0);
        }
    }
}

TEST(a_child_has_numbers_of_its_own) {
    int fd = file_with("one", 1, BIG);
    file_with("two", 2, BIG);
    unsigned char *memory = some_memory(BIG);
    for (int round = 0; round < OFTEN; round++) {
        CHECK(pread(fd, memory, BIG, 0) == BIG);
        pid_t pid = CHILD({
            CHECK(pread(fd, memory, BIG, 0) == BIG);
            is_of(memory, 1, 0, BIG);
            close(fd);
            CHECK(open("two", O_RDONLY) == fd && pread(fd, memory, BIG, 0) == BIG);
            is_of(memory, 2, 0, BIG);
        });
        CHECK(pread(fd, memory, BIG, 0) == BIG);
        is_of(memory, 1, 0, BIG);
        CHECK_EXIT(pid, 0);
        CHECK(pread(fd, memory, BIG, 0) == BIG);
        is_of(memory, 1, 0, BIG);
    }
}

TEST(a_file_that_is_cut_meanwhile_gives_what_there_is) {
    int fd = file_with("f", 1, BIG);
    pid_t pid = CHILD({
        for (;;) CHECK(ftruncate(fd, 100) == 0 && ftruncate(fd, BIG) == 0);
    });
    unsigned char *memory = some_memory(BIG);
    int mine = open("f", O_RDONLY);
    for (int round = 0; round < 2000; round++) {
        long n = pread(fd, memory, BIG, 0);
        CHECK(n >= 100 && n <= BIG);
        is_of(memory, 1, 0, 100);
        CHECK(lseek(mine, 0, SEEK_SET) == 0);
        n = read(mine, memory, BIG);
        CHECK(n >= 100 && n <= BIG);
        CHECK_EQ(lseek(mine, 0, SEEK_CUR), n);
    }
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int sig) {
    (void)sig;
    alarms++;
}
TEST(signals_do_not_shorten_reads_of_files) {
    int fd = file_with("f", 1, BIG), mine = open("f", O_RDONLY);
    unsigned char *memory = some_memory(BIG);
    handle_signal(SIGALRM, on_alarm, 0);
    struct itimerval often = {{0, 300}, {0, 300}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int round = 0; round < 3000 && alarms < 500; round++) {
        memset(memory, 0, PAGE);
        CHECK_EQ(pread(fd, memory, BIG, 0), BIG);
        is_of(memory, 1, 0, PAGE);
        CHECK_EQ(read(mine, memory, BIG), BIG);
        CHECK_EQ(lseek(mine, 0, SEEK_SET), 0);
    }
    struct itimerval never = {0};
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0 && alarms > 0);
}

static int shared_fd;
static void *read_again_and_again(void *arg) {
    unsigned char *memory = some_memory(BIG);
    for (int round = 0; round < OFTEN; round++) {
        CHECK(pread(shared_fd, memory, BIG, 0) == BIG);
        is_of(memory, 1, 0, BIG);
    }
    munmap(memory, BIG);
    return arg;
}
TEST(threads_read_beside_each_other_and_alone_again) {
    shared_fd = file_with("f", 1, BIG);
    for (int round = 0; round < 3; round++) {
        pthread_t t[3];
        read_again_and_again(NULL);
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&t[i], NULL, read_again_and_again, NULL) == 0);
        int other = open("/dev/zero", O_RDONLY);
        close(other);
        for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    }
}

TEST(who_reads_can_be_killed_and_stopped) {
    int fd = file_with("f", 1, BIG);
    for (int round = 0; round < 10; round++) {
        int ready[2];
        CHECK(pipe(ready) == 0);
        pid_t pid = CHILD({
            unsigned char *memory = some_memory(BIG);
            for (int i = 0;; i++) {
                CHECK(pread(fd, memory, BIG, 0) == BIG);
                if (i == OFTEN) CHECK(write(ready[1], "x", 1) == 1);
            }
        });
        char c;
        int status;
        CHECK(read(ready[0], &c, 1) == 1 && kill(pid, SIGSTOP) == 0);
        CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        CHECK(round % 2 || kill(pid, SIGCONT) == 0);
        CHECK(kill(pid, SIGKILL) == 0);
        CHECK_KILLED(pid, SIGKILL);
        close(ready[0]), close(ready[1]);
    }
}

TEST(writes_come_through_whole_wherever_they_begin) {
    int fd = open("f", O_RDWR | O_CREAT, 0600), at_end = open("g", O_RDWR | O_CREAT | O_APPEND, 0600);
    unsigned char *memory = some_memory(BIG), *back = some_memory(BIG);
    long size = 0;
    CHECK(fd >= 0 && at_end >= 0);
    for (int round = 0; round < OFTEN; round++) {
        long count = 100000 + round * 23456, at = round * 77777 % 1000000;
        memset(memory, round + 1, count);
        struct stat before, after;
        CHECK(fstat(fd, &before) == 0);
        CHECK_EQ(round % 2 ? pwrite(fd, memory, count, at) : (lseek(fd, at, SEEK_SET), write(fd, memory, count)), count);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), round % 2 ? 0 : at + count);
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
        if (at + count > size) size = at + count;
        CHECK(stat("f", &after) == 0 && after.st_size == size);
        CHECK(after.st_mtim.tv_sec > before.st_mtim.tv_sec
              || (after.st_mtim.tv_sec == before.st_mtim.tv_sec && after.st_mtim.tv_nsec >= before.st_mtim.tv_nsec));
        CHECK_EQ(pread(fd, back, count, at), count);
        CHECK(!memcmp(memory, back, count));
        CHECK_EQ(write(at_end, memory, count), count);
        CHECK_EQ(lseek(at_end, 0, SEEK_CUR), lseek(at_end, 0, SEEK_END));
    }
    CHECK_ERR(pwrite(open("f", O_RDONLY), memory, BIG, 0), EBADF);
    CHECK_ERR(pwrite(fd, memory, BIG, -1), EINVAL);
    CHECK_ERR(write(fd, (void *)-4096L, BIG), EFAULT);
}

TEST(what_cannot_be_read_ends_a_write) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    for (int round = 0; round < OFTEN; round++) {
        long hole = (round % 20 + 1) * 12 * PAGE;
        unsigned char *memory = some_memory(BIG);
        memset(memory, round + 1, BIG);
        CHECK(munmap(memory + hole, PAGE) == 0 && ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
        CHECK_EQ(round % 2 ? pwrite(fd, memory, BIG, 0) : write(fd, memory, BIG), hole);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), round % 2 ? 0 : hole);
        CHECK_EQ(lseek(fd, 0, SEEK_END), hole);
        munmap(memory, BIG);
    }
}

TEST(a_file_grows_no_further_than_it_may) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    unsigned char *memory = some_memory(BIG);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {3 * BIG + 10, 3 * BIG + 10};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    for (int round = 0; round < OFTEN; round++) {
        CHECK(ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
        for (int i = 0; i < 3; i++) CHECK_EQ(write(fd, memory, BIG), BIG);
        CHECK_EQ(write(fd, memory, BIG), 10);
        CHECK_ERR(write(fd, memory, BIG), EFBIG);
        CHECK_EQ(pwrite(fd, memory, BIG, 2 * BIG + 100), BIG - 90);
        CHECK_ERR(pwrite(fd, memory, BIG, 3 * BIG + 10), EFBIG);
    }
}

// mov eax, SYS_getppid; syscall; ret
static const unsigned char CODE[] = {0xb8, SYS_getppid, 0, 0, 0, 0x0f, 0x05, 0xc3};
TEST(code_is_written_as_it_was_written) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    unsigned char *memory = some_memory(BIG), *back = some_memory(BIG);
    memcpy(memory + 5 * PAGE, CODE, sizeof CODE);
    CHECK(mprotect(memory, BIG, PROT_READ | PROT_EXEC) == 0);
    for (int round = 0; round < 300; round++) CHECK_EQ(((long (*)(void))(uintptr_t)(memory + 5 * PAGE))(), getppid());
    for (int round = 0; round < OFTEN; round++) {
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
        CHECK_EQ(round % 2 ? pwrite(fd, memory, BIG, 0) : write(fd, memory, BIG), BIG);
        CHECK_EQ(pread(fd, back, BIG, 0), BIG);
        CHECK(!memcmp(back + 5 * PAGE, CODE, sizeof CODE));
    }
}

TEST(a_program_that_was_written_can_be_executed_once_it_is_closed) {
    static char self[2 << 20];
    long size = 0;
    for (long n; (n = pread(open("/proc/self/exe", O_RDONLY), self + size, sizeof self - size, size)) > 0; size += n) {}
    CHECK(size > 0 && size < (long)sizeof self);
    unsigned char *memory = some_memory(BIG);
    for (int round = 0; round < OFTEN; round++) {
        int fd = open("program", O_RDWR | O_CREAT | O_TRUNC, 0700);
        CHECK(fd >= 0 && write(fd, memory, BIG) == BIG && pwrite(fd, memory, BIG, 0) == BIG);
        CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, self, size, 0) == size);
        for (int i = 0; i < 50; i++) lseek(fd, 0, SEEK_CUR);
        CHECK(close(fd) == 0);
        CHECK_EXIT(CHILD({
                       dup2(open("/dev/null", O_WRONLY), 1);
                       execl("./program", "program", "--list", NULL);
                   }),
                   0);
    }
}
