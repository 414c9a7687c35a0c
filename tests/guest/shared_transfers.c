// Large transfers of a process with several threads, and to file systems in memory: a sandbox may leave them to somebody else, and count
// afterwards. Nobody may notice, whatever the other threads do with files, numbers and processes meanwhile.
#include "check.h"
#include <sys/mount.h>
#include <sys/statfs.h>

enum { PAGE = 4096, BIG = 1 << 20, OFTEN = 40 };

static unsigned char *some_memory(size_t size) {
    unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static unsigned char *filled(int byte) {
    return memset(some_memory(BIG), byte, BIG);
}

// All bytes of the first so many are this one.
static bool all(const unsigned char *memory, int byte, long count) {
    return count == 0 || (memory[0] == byte && !memcmp(memory, memory + 1, count - 1));
}

static int file_of(const char *name, int byte) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    unsigned char *memory = filled(byte);
    CHECK(fd >= 0 && pwrite(fd, memory, BIG, 0) == BIG);
    munmap(memory, BIG);
    return fd;
}

static pthread_t threads[8];
static int thread_count;
static volatile bool over;

static void beside(void *(*what)(void *), long arg) {
    CHECK(pthread_create(&threads[thread_count++], NULL, what, (void *)arg) == 0);
}

static void all_done(void) {
    while (thread_count > 0) pthread_join(threads[--thread_count], NULL);
}

static void *until_over(void *arg) {
    while (!over) usleep(1000);
    return arg;
}

// Now and then the same in a process with one thread, and in one with two.
static void with_and_without_others(void (*test)(void)) {
    CHECK_EXIT(CHILD(test()), 0);
    over = false;
    beside(until_over, 0);
    test();
    over = true;
    all_done();
}

static void transfers(void) {
    int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600), only = open("f", O_RDONLY);
    unsigned char *to = some_memory(BIG);
    for (int round = 1; round < OFTEN; round++) {
        unsigned char *from = filled(round);
        long count = 200000 + round * 20000, at = round * 54321 % 500000;
        if (round % 10 == 0) CHECK(ftruncate(fd, 0) == 0);
        struct stat before, after;
        CHECK(fstat(fd, &before) == 0 && lseek(fd, at, SEEK_SET) == at);
        CHECK_EQ(round % 2 ? pwrite(fd, from, count, at) : write(fd, from, count), count);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), round % 2 ? at : at + count);
        CHECK(fstat(only, &after) == 0);
        CHECK_EQ(after.st_size, before.st_size > at + count ? before.st_size : at + count);
        long left = after.st_size - at, most = left < BIG ? left : BIG;
        CHECK_EQ(pread(only, to, BIG, at), most);
        CHECK(all(to, round, count));
        CHECK(lseek(only, at, SEEK_SET) == at);
        memset(to, 0, count);
        CHECK_EQ(read(only, to, BIG), most);
        CHECK_EQ(lseek(only, 0, SEEK_CUR), at + most);
        CHECK(all(to, round, count));
        CHECK_ERR(pwrite(only, from, count, 0), EBADF);
        CHECK_EQ(pread(only, to, BIG, after.st_size), 0);
        munmap(from, BIG);
    }
    close(fd), close(only);
    CHECK_ERR(pread(fd, to, BIG, 0), EBADF);
    CHECK_ERR(pwrite(fd, to, BIG, 0), EBADF);
}
TEST(transfers_are_whole_with_and_without_other_threads) {
    with_and_without_others(transfers);
}

static void partly(void) {
    int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int round = 0; round < OFTEN; round++) {
        long hole = (round % 20 + 1) * 12 * PAGE;
        unsigned char *memory = filled(round + 1);
        CHECK(munmap(memory + hole, PAGE) == 0 && ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
        CHECK_EQ(round % 2 ? pwrite(fd, memory, BIG, 0) : write(fd, memory, BIG), hole);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), round % 2 ? 0 : hole);
        CHECK_EQ(lseek(fd, 0, SEEK_END), hole);
        CHECK(ftruncate(fd, BIG) == 0 && lseek(fd, 0, SEEK_SET) == 0);
        CHECK_EQ(round % 2 ? pread(fd, memory, BIG, 0) : read(fd, memory, BIG), hole);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), round % 2 ? 0 : hole);
        munmap(memory, BIG);
    }
    CHECK_ERR(write(fd, (void *)-4096L, BIG), EFAULT);
    CHECK_ERR(pwrite(fd, (void *)-4096L, BIG, 0), EFAULT);
    CHECK_ERR(pread(fd, (void *)-4096L, BIG, 0), EFAULT);
}
TEST(holes_in_memory_end_transfers_with_and_without_other_threads) {
    with_and_without_others(partly);
}

static long free_pages(const char *path) {
    struct statfs status;
    CHECK(statfs(path, &status) == 0 && status.f_bsize == PAGE);
    return status.f_bfree;
}

static void mount_small(void) {
    if (mkdir("m", 0755) == 0 && mount("none", "m", "tmpfs", 0, "size=8m") < 0) CHECK(errno == EPERM);
}

static void fill(void) {
    unsigned char *memory = filled(7), *back = some_memory(BIG);
    for (int round = 0; round < 6; round++) {
        int fd = open("m/f", O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK(fd >= 0);
        CHECK_EQ(free_pages("m"), 2048);
        for (int i = 0; i < 7; i++) {
            CHECK_EQ(round % 2 ? pwrite(fd, memory, BIG, i * BIG) : write(fd, memory, BIG), BIG);
            CHECK_EQ(free_pages("m"), 2048 - (i + 1) * 256);
        }
        // Over what there is no more room is needed; and then there is less than is wanted.
        CHECK_EQ(pwrite(fd, memory, BIG, BIG / 2), BIG);
        CHECK_EQ(free_pages("m"), 256);
        CHECK_EQ(pwrite(fd, memory, BIG / 2, 7 * BIG), BIG / 2);
        CHECK_EQ(pwrite(fd, memory, BIG, 7 * BIG + BIG / 2), BIG / 2);
        CHECK_EQ(free_pages("m"), 0);
        CHECK_ERR(pwrite(fd, memory, BIG, 8 * BIG), ENOSPC);
        CHECK_ERR(pwrite(fd, memory, BIG, 1L << 40), ENOSPC);
        CHECK_EQ(lseek(fd, 0, SEEK_END), 8 * BIG);
        CHECK_EQ(pwrite(fd, memory, BIG, 3 * BIG + 1), BIG);
        CHECK_EQ(pread(fd, back, BIG, 7 * BIG + 1), BIG - 1);
        CHECK(all(back, 7, BIG - 1));
        CHECK(ftruncate(fd, BIG) == 0);
        CHECK_EQ(free_pages("m"), 2048 - 256);
        CHECK(close(fd) == 0 && unlink("m/f") == 0);
    }
    // What is open somewhere still takes room.
    int fd = open("m/f", O_RDWR | O_CREAT, 0600);
    CHECK(pwrite(fd, memory, BIG, 0) == BIG && unlink("m/f") == 0 && free_pages("m") == 2048 - 256);
    CHECK(close(fd) == 0);
    CHECK_EQ(free_pages("m"), 2048);
    CHECK_ERR(munmap((void *)1, BIG), EINVAL);
}
TEST(a_file_system_in_memory_gets_no_larger_than_it_may) {
    mount_small();
    with_and_without_others(fill);
    CHECK(umount("m") == 0);
}

static void sparsely(void) {
    int fd = open("m/f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    unsigned char *memory = filled(9), *back = some_memory(BIG);
    struct stat status;
    for (int round = 0; round < 10; round++) {
        CHECK(ftruncate(fd, 0) == 0);
        CHECK_EQ(pwrite(fd, memory, BIG, 1L << 30), BIG);
        CHECK(fstat(fd, &status) == 0 && status.st_size == (1L << 30) + BIG);
        CHECK_EQ(status.st_blocks, BIG / 512);
        CHECK(lseek(fd, 0, SEEK_DATA) == 1L << 30 && lseek(fd, 0, SEEK_HOLE) == 0);
        CHECK(lseek(fd, BIG, SEEK_SET) == BIG && write(fd, memory, BIG) == BIG);
        CHECK(fstat(fd, &status) == 0 && status.st_blocks == 2 * BIG / 512);
        CHECK(pread(fd, back, BIG, 0) == BIG && all(back, 0, BIG));
        CHECK(pread(fd, back, BIG, BIG) == BIG && all(back, 9, BIG));
        CHECK(pread(fd, back, BIG, (1L << 30) - BIG / 2) == BIG);
        CHECK(all(back, 0, BIG / 2) && all(back + BIG / 2, 9, BIG / 2));
        // Small ones into the holes and over what is there, which have to be counted right, too.
        for (int i = 0; i < 100; i++) CHECK(pwrite(fd, memory, 10, i * PAGE * 5L) == 10);
        CHECK(fstat(fd, &status) == 0);
        CHECK_EQ(status.st_blocks, 2 * BIG / 512 + 8 * 52);
        CHECK_EQ(free_pages("m"), 2048 - status.st_blocks / 8);
    }
    close(fd);
}
TEST(files_in_memory_keep_their_holes) {
    mount_small();
    with_and_without_others(sparsely);
    CHECK(umount("m") == 0);
}

// Several threads at the same and at different files, while numbers change what they stand for.
static int number;

static void *change_the_number(void *arg) {
    const char *names[] = {"one", "two"};
    for (int i = 0; !over; i++) {
        int fd = open(names[i % 2], O_RDWR);
        CHECK(fd >= 0 && dup2(fd, number) == number && close(fd) == 0);
        if (i % 3 == 0) CHECK(close(number) == 0);
    }
    return arg;
}

static void *read_the_number(void *arg) {
    unsigned char *memory = some_memory(BIG);
    int got = 0;
    for (int round = 0; round < 3 * OFTEN; round++) {
        long n = pread(number, memory, BIG, 0);
        if (n < 0) CHECK(errno == EBADF);
        else CHECK(n == BIG && (all(memory, 1, BIG) || all(memory, 2, BIG)));
        got += n > 0;
    }
    munmap(memory, BIG);
    return arg;
}

static void *read_in_turn(void *arg) {
    unsigned char *memory = some_memory(BIG);
    int fd = open(arg ? "one" : "two", O_RDONLY);
    for (int round = 0; round < 3 * OFTEN; round++) {
        memset(memory, 0, PAGE);
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
        CHECK_EQ(read(fd, memory, BIG), BIG);
        CHECK(all(memory, arg ? 1 : 2, BIG));
    }
    CHECK(close(fd) == 0);
    munmap(memory, BIG);
    return arg;
}

static void *write_my_own(void *arg) {
    char name[20];
    snprintf(name, sizeof name, "own-%ld", (long)arg);
    unsigned char *memory = some_memory(BIG);
    for (int round = 1; round < 2 * OFTEN; round++) {
        int fd = open(name, O_RDWR | O_CREAT | (round % 5 ? 0 : O_TRUNC), 0600);
        memset(memory, round, BIG);
        CHECK_EQ(round % 2 ? write(fd, memory, BIG) : pwrite(fd, memory, BIG, 0), BIG);
        memset(memory, 0, BIG);
        CHECK_EQ(pread(fd, memory, BIG, 0), BIG);
        CHECK(all(memory, round, BIG) && close(fd) == 0);
    }
    munmap(memory, BIG);
    return arg;
}

TEST(threads_transfer_while_numbers_change) {
    number = 50;
    close(file_of("one", 1)), close(file_of("two", 2));
    beside(change_the_number, 0);
    for (long i = 0; i < 2; i++) {
        beside(read_the_number, i);
        beside(read_in_turn, i);
        beside(write_my_own, i);
    }
    while (thread_count > 1) pthread_join(threads[--thread_count], NULL);
    over = true;
    all_done();
}

// A number that stands for a file that may be written, and at other times for one that may not.
static void *change_what_may_be_written(void *arg) {
    for (int i = 0; !over; i++) {
        int fd = i % 2 ? open("mine", O_RDWR) : open("theirs", O_RDONLY);
        CHECK(fd >= 0 && dup2(fd, number) == number);
        unsigned char byte;
        // Something large of the other file, so that that is lent, too.
        static unsigned char memory[BIG];
        CHECK(pread(fd, memory, BIG, 0) == BIG && pread(fd, &byte, 1, 0) == 1 && close(fd) == 0);
    }
    return arg;
}
static void *write_the_number(void *arg) {
    unsigned char *memory = filled(1);
    for (int round = 0; round < 3 * OFTEN; round++) {
        long n = pwrite(number, memory, BIG, 0);
        CHECK(n == BIG || (n == -1 && errno == EBADF));
    }
    munmap(memory, BIG);
    return arg;
}
TEST(what_was_not_opened_for_writing_is_not_written) {
    number = 50;
    int mine = file_of("mine", 1), theirs = file_of("theirs", 2);
    CHECK(dup2(mine, number) == number && close(mine) == 0);
    beside(change_what_may_be_written, 0);
    for (long i = 0; i < 3; i++) beside(write_the_number, i);
    while (thread_count > 1) pthread_join(threads[--thread_count], NULL);
    over = true;
    all_done();
    unsigned char *memory = some_memory(BIG);
    CHECK(pread(theirs, memory, BIG, 0) == BIG && all(memory, 2, BIG));
}

static void *read_until_over(void *arg) {
    unsigned char *memory = some_memory(BIG);
    int fd = open(arg ? "one" : "two", O_RDWR);
    while (!over) {
        CHECK(pread(fd, memory, BIG, 0) == BIG && all(memory, arg ? 1 : 2, BIG));
        CHECK(pwrite(fd, memory, BIG, 0) == BIG);
    }
    munmap(memory, BIG);
    return arg;
}
TEST(children_of_a_process_whose_threads_transfer_have_their_own) {
    int one = file_of("one", 1), two = file_of("two", 2);
    int null = open("/dev/null", O_WRONLY);
    unsigned char *memory = some_memory(BIG);
    for (long i = 0; i < 2; i++) beside(read_until_over, i);
    for (int round = 0; round < 8; round++) {
        CHECK(pread(one, memory, BIG, 0) == BIG && all(memory, 1, BIG));
        CHECK_EXIT(CHILD({
                       for (int fd = 3; fd < 12; fd++) {
                           CHECK(dup2(fd % 2 ? one : two, 100) == 100);
                           CHECK(pread(100, memory, BIG, 0) == BIG && all(memory, fd % 2 ? 1 : 2, BIG));
                       }
                       thread_count = 0;
                       beside(read_until_over, 1);
                       CHECK(pread(two, memory, BIG, 0) == BIG && all(memory, 2, BIG));
                       over = true;
                       all_done();
                   }),
                   0);
        pid_t pid = vfork();
        if (pid == 0) {
            dup2(null, 1);
            execl("/proc/self/exe", "shared_transfers", "--list", NULL);
            _exit(1);
        }
        CHECK_EXIT(pid, 0);
    }
    over = true;
    all_done();
}

static void *come_and_go(void *arg) {
    unsigned char *memory = some_memory(BIG);
    int fd = open("one", O_RDONLY);
    for (int i = 0; i < 5; i++) CHECK(pread(fd, memory, BIG, 0) == BIG && all(memory, 1, BIG));
    CHECK(close(fd) == 0 && munmap(memory, BIG) == 0);
    return arg;
}
TEST(threads_come_and_go_with_what_they_have_borrowed) {
    close(file_of("one", 1));
    for (int round = 0; round < 20; round++) {
        for (long i = 0; i < 4; i++) beside(come_and_go, i);
        all_done();
        come_and_go(NULL);
    }
}

TEST(who_is_killed_in_a_write_leaves_a_file_that_is_counted) {
    mount_small();
    for (int round = 0; round < 20; round++) {
        int ready[2];
        CHECK(pipe(ready) == 0);
        pid_t pid = CHILD({
            unsigned char *memory = filled(round + 1);
            int fd = open("m/f", O_RDWR | O_CREAT | O_TRUNC, 0600);
            if (round % 2) beside(until_over, 0);
            for (int i = 0;; i++) {
                CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, memory, BIG, 0) == BIG);
                if (i == 20) CHECK(write(ready[1], "x", 1) == 1);
            }
        });
        char c;
        CHECK(read(ready[0], &c, 1) == 1 && kill(pid, SIGKILL) == 0);
        CHECK_KILLED(pid, SIGKILL);
        struct stat status;
        unsigned char *memory = some_memory(BIG + PAGE);
        int fd = open("m/f", O_RDWR);
        CHECK(fd >= 0 && fstat(fd, &status) == 0 && status.st_size <= BIG);
        CHECK_EQ(pread(fd, memory, BIG + PAGE, 0), status.st_size);
        CHECK(all(memory, round + 1, status.st_size));
        CHECK_EQ(free_pages("m"), 2048 - status.st_blocks / 8);
        CHECK(pwrite(fd, memory, BIG, 0) == BIG && fstat(fd, &status) == 0 && status.st_size == BIG);
        CHECK_EQ(status.st_blocks, BIG / 512);
        CHECK(close(fd) == 0 && unlink("m/f") == 0);
        CHECK_EQ(free_pages("m"), 2048);
        munmap(memory, BIG + PAGE);
        close(ready[0]), close(ready[1]);
    }
    CHECK(umount("m") == 0);
}
