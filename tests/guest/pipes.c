/* Pipes: blocking, atomic writes, capacity, broken ends, packets, splice, tee. */
#include "check.h"
#include <sys/ioctl.h>
#include <sys/uio.h>

TEST(bytes_come_out_in_order_and_the_end_is_zero) {
    int p[2];
    char buf[20] = {0};
    CHECK(pipe(p) == 0);
    CHECK(write(p[1], "hello ", 6) == 6 && write(p[1], "world", 5) == 5);
    CHECK_EQ(read(p[0], buf, 3), 3);
    CHECK_EQ(read(p[0], buf + 3, 17), 8);
    CHECK_STR(buf, "hello world");
    close(p[1]);
    CHECK_EQ(read(p[0], buf, 1), 0);
}

TEST(writing_without_a_reader_is_sigpipe_or_epipe) {
    int p[2];
    CHECK(pipe(p) == 0);
    close(p[0]);
    CHECK_KILLED(CHILD(write(p[1], "x", 1)), SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERR(write(p[1], "x", 1), EPIPE);
}

TEST(flags_of_pipe2) {
    int p[2];
    char c;
    CHECK(pipe2(p, O_NONBLOCK | O_CLOEXEC) == 0);
    CHECK_ERR(read(p[0], &c, 1), EAGAIN);
    CHECK_EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(p[0], F_GETFL), O_NONBLOCK | O_RDONLY);
    CHECK_EQ(fcntl(p[1], F_GETFL), O_NONBLOCK | O_WRONLY);
    CHECK_ERR(pipe2(p, 0x1), EINVAL);
    CHECK_ERR(read(p[1], &c, 1), EBADF);
    CHECK_ERR(write(p[0], &c, 1), EBADF);
    CHECK_ERR(syscall(SYS_pipe, (void *)8), EFAULT);
}

TEST(capacity_and_partial_writes) {
    int p[2];
    static char big[200000];
    CHECK(pipe2(p, O_NONBLOCK) == 0);
    CHECK_EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
    CHECK_EQ(write(p[1], big, sizeof big), 65536);
    CHECK_ERR(write(p[1], big, 1), EAGAIN);
    int n;
    CHECK(ioctl(p[0], FIONREAD, &n) == 0 && n == 65536);
    CHECK_EQ(read(p[0], big, 100), 100);
    CHECK_ERR(write(p[1], big, 4096), EAGAIN); /* all or nothing up to PIPE_BUF */
    CHECK_EQ(read(p[0], big, 8192), 8192);
    CHECK_EQ(write(p[1], big, 4096), 4096);
    CHECK_EQ(fcntl(p[1], F_SETPIPE_SZ, 1 << 17), 1 << 17);
    CHECK_ERR(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
}

TEST(a_writer_blocks_until_there_is_room) {
    int p[2];
    enum { SIZE = 1 << 20 };
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        close(p[0]);
        char *data = malloc(SIZE);
        for (int i = 0; i < SIZE; i++) data[i] = (char)(i * 31 + (i >> 8));
        CHECK_EQ(write(p[1], data, SIZE), SIZE);
    });
    close(p[1]);
    wait_blocked(pid);
    char buf[7777];
    int total = 0;
    ssize_t n;
    while ((n = read(p[0], buf, sizeof buf)) > 0)
        for (int i = 0; i < n; i++, total++) CHECK(buf[i] == (char)(total * 31 + (total >> 8)));
    CHECK_EQ(total, SIZE);
    CHECK_EXIT(pid, 0);
}

TEST(small_writes_of_many_processes_do_not_mix) {
    int p[2];
    CHECK(pipe(p) == 0);
    for (int w = 0; w < 4; w++)
        CHILD({
            char line[100];
            memset(line, 'a' + w, sizeof line);
            for (int i = 0; i < 200; i++) CHECK_EQ(write(p[1], line, sizeof line), sizeof line);
        });
    close(p[1]);
    int lines = 0;
    for (;;) {
        char line[100];
        size_t have = 0;
        ssize_t n = 1;
        while (have < sizeof line && (n = read(p[0], line + have, sizeof line - have)) > 0) have += n;
        if (n == 0) break;
        for (int i = 1; i < 100; i++) CHECK(line[i] == line[0]);
        lines++;
    }
    CHECK_EQ(lines, 800);
    for (int w = 0; w < 4; w++) {
        int st;
        CHECK(wait(&st) > 0 && st == 0);
    }
}

TEST(a_blocked_reader_wakes_when_the_last_writer_closes) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        close(p[1]);
        char c;
        CHECK_EQ(read(p[0], &c, 1), 0);
    });
    wait_blocked(pid);
    close(p[1]);
    CHECK_EXIT(pid, 0);
}

TEST(a_blocked_writer_gets_epipe_when_the_reader_closes) {
    int p[2];
    static char big[100000];
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        close(p[0]);
        signal(SIGPIPE, SIG_IGN);
        CHECK_EQ(write(p[1], big, sizeof big), 65536);
        CHECK_ERR(write(p[1], big, 1), EPIPE);
    });
    wait_blocked(pid);
    close(p[0]);
    CHECK_EXIT(pid, 0);
}

TEST(packet_mode_keeps_boundaries) {
    int p[2];
    char buf[100];
    CHECK(pipe2(p, O_DIRECT) == 0);
    CHECK(write(p[1], "first", 5) == 5 && write(p[1], "second", 6) == 6);
    CHECK_EQ(read(p[0], buf, 3), 3); /* the rest of the packet is lost */
    CHECK_EQ(read(p[0], buf, 100), 6);
    CHECK(fcntl(p[0], F_GETFL) == O_RDONLY && fcntl(p[1], F_GETFL) == (O_WRONLY | O_DIRECT));
}

TEST(packets_take_a_page_each_and_longer_writes_are_several) {
    int p[2];
    static char buf[2 * PIPE_BUF];
    CHECK(pipe2(p, O_DIRECT | O_NONBLOCK) == 0);
    CHECK_EQ(write(p[1], buf, PIPE_BUF + 10), PIPE_BUF + 10);
    CHECK_EQ(write(p[1], buf, 0), 0);
    CHECK_EQ(read(p[0], buf, sizeof buf), PIPE_BUF);
    CHECK_EQ(read(p[0], buf, sizeof buf), 10);
    CHECK_ERR(read(p[0], buf, sizeof buf), EAGAIN);
    struct pollfd pf = {p[1], POLLOUT, 0};
    int count = 0, bytes = -1;
    while (write(p[1], "x", 1) == 1) count++;
    CHECK(errno == EAGAIN && count == 16 && poll(&pf, 1, 0) == 0);
    CHECK(ioctl(p[0], FIONREAD, &bytes) == 0 && bytes == 16);
    CHECK_EQ(read(p[0], buf, 100), 1);
    CHECK(poll(&pf, 1, 0) == 1 && write(p[1], "y", 1) == 1);
    /* The mode is the writer's, and may change. */
    CHECK(pipe(p) == 0);
    CHECK(fcntl(p[1], F_SETFL, O_DIRECT) == 0);
    CHECK(write(p[1], "one", 3) == 3 && write(p[1], "two", 3) == 3);
    CHECK(fcntl(p[1], F_SETFL, 0) == 0);
    CHECK(write(p[1], "three", 5) == 5 && write(p[1], "four", 4) == 4);
    CHECK_EQ(read(p[0], buf, 100), 3);
    CHECK_EQ(read(p[0], buf, 100), 3);
    CHECK_EQ(read(p[0], buf, 100), 9);
}

TEST(splice_and_tee_keep_packets_apart) {
    int a[2], b[2], c[2];
    char buf[100];
    CHECK(pipe2(a, O_DIRECT) == 0 && pipe(b) == 0 && pipe(c) == 0);
    CHECK(write(a[1], "first", 5) == 5 && write(a[1], "second", 6) == 6);
    CHECK_EQ(tee(a[0], b[1], 100, 0), 11);
    CHECK_EQ(splice(a[0], NULL, c[1], NULL, 3, 0), 3); /* what is left of the packet is one */
    CHECK_EQ(read(c[0], buf, 100), 3);
    CHECK_EQ(read(a[0], buf, 100), 2);
    CHECK_EQ(read(a[0], buf, 100), 6);
    CHECK_EQ(read(b[0], buf, 2), 2);
    CHECK_EQ(read(b[0], buf, 100), 6);
}

TEST(splice_tee_and_vmsplice_move_bytes) {
    int a[2], b[2];
    char buf[10] = {0};
    CHECK(pipe(a) == 0 && pipe(b) == 0);
    CHECK(write(a[1], "abcdef", 6) == 6);
    CHECK_EQ(tee(a[0], b[1], 3, 0), 3);
    CHECK_EQ(read(b[0], buf, 10), 3);
    CHECK_STR(buf, "abc");
    CHECK_EQ(splice(a[0], NULL, b[1], NULL, 100, 0), 6);
    CHECK_EQ(read(b[0], buf, 10), 6);
    CHECK(!memcmp(buf, "abcdef", 6));
    struct iovec iov = {"xyz", 3};
    CHECK_EQ(vmsplice(a[1], &iov, 1, 0), 3);
    CHECK_EQ(read(a[0], buf, 10), 3);
    CHECK(!memcmp(buf, "xyz", 3));
    CHECK_ERR(splice(a[0], NULL, b[1], NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
}

TEST(readv_gathers_and_zero_length_calls_return_at_once) {
    int p[2];
    char a[2], b[3];
    CHECK(pipe(p) == 0);
    CHECK_EQ(read(p[0], a, 0), 0);
    CHECK_EQ(write(p[1], a, 0), 0);
    struct iovec out[2] = {{"ab", 2}, {"cde", 3}}, in[2] = {{a, 2}, {b, 3}};
    CHECK_EQ(writev(p[1], out, 2), 5);
    CHECK_EQ(readv(p[0], in, 2), 5);
    CHECK(!memcmp(a, "ab", 2) && !memcmp(b, "cde", 3));
}

TEST(ping_pong_of_two_processes) {
    int a[2], b[2];
    CHECK(pipe(a) == 0 && pipe(b) == 0);
    pid_t pid = CHILD(for (int i = 0; i < 2000; i++) {
        int x;
        CHECK(read(a[0], &x, 4) == 4 && x == i);
        CHECK(write(b[1], &x, 4) == 4);
    });
    for (int i = 0; i < 2000; i++) {
        int x = -1;
        CHECK(write(a[1], &i, 4) == 4 && read(b[0], &x, 4) == 4 && x == i);
    }
    CHECK_EXIT(pid, 0);
}
