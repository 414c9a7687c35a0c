/*
 * Programs that take all they can get: processes, threads, memory, descriptors, pipes' and
 * sockets' buffers. Each must come to the limit that it was given, with the error Linux
 * gives, and the system must be as good as new when it is gone.
 */
#include "check.h"
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void still_works(void) {
    int p[2];
    char c;
    CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1 && read(p[0], &c, 1) == 1 && c == 'x');
    close(p[0]);
    close(p[1]);
    CHECK_EXIT(CHILD(_exit(3)), 3);
}
static void limit(int resource, rlim_t value) {
    struct rlimit r = {value, value};
    CHECK(setrlimit(resource, &r) == 0);
}
/* Limits of processes bind only users without privileges; nobody else is this one. */
static void become_nobody(void) {
    unsigned uid;
    CHECK(getrandom(&uid, sizeof uid, 0) == sizeof uid);
    uid = 100000 + uid % 1000000000;
    CHECK(setgid(uid) == 0 && setuid(uid) == 0);
}

TEST(a_fork_bomb_goes_off_within_its_limit) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t bomb = CHILD({
        limit(RLIMIT_NPROC, 30);
        become_nobody();
        close(p[0]);
        /* Every process forks until it may not; each that came to be says so. */
        for (;;) {
            pid_t pid = fork();
            if (pid < 0) {
                CHECK(errno == EAGAIN);
                pause();
            }
            if (pid == 0) CHECK(write(p[1], "x", 1) == 1);
        }
    });
    /* the bomb itself and 29 more */
    char c;
    for (int i = 0; i < 29; i++) CHECK(read(p[0], &c, 1) == 1);
    struct pollfd poll_fd = {p[0], POLLIN, 0};
    CHECK(poll(&poll_fd, 1, 200) == 0);
    /* they are all in this group: but we are too */
    signal(SIGTERM, SIG_IGN);
    CHECK(kill(0, SIGTERM) == 0);
    int st;
    CHECK(waitpid(bomb, &st, 0) == bomb && WIFSIGNALED(st));
    close(p[1]);
    CHECK(read(p[0], &c, 1) == 0);
    still_works();
}

static void *sleep_forever(void *arg) {
    for (;;) pause();
    return arg;
}
TEST(a_thread_bomb_goes_off_within_its_limit) {
    CHECK_EXIT(CHILD({
        limit(RLIMIT_NPROC, 40);
        become_nobody();
        int made = 0;
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 65536);
        pthread_t t;
        int error;
        while ((error = pthread_create(&t, &attr, sleep_forever, NULL)) == 0) made++;
        CHECK_EQ(error, EAGAIN);
        CHECK_EQ(made, 39);
        _exit(7);
    }), 7);
    still_works();
}

TEST(a_memory_hog_gets_its_address_space_and_no_more) {
    CHECK_EXIT(CHILD({
        limit(RLIMIT_AS, 256 << 20);
        size_t got = 0;
        for (;;) {
            char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED) break;
            *p = 1;
            got++;
        }
        CHECK_EQ(errno, ENOMEM);
        CHECK(got > 200 && got < 256);
        CHECK_ERR(brk((char *)sbrk(0) + (2 << 20)), ENOMEM);
        _exit(7);
    }), 7);
    still_works();
}

TEST(tiny_mappings_without_number_come_to_an_end) {
    CHECK_EXIT(CHILD({
        /* every second page another protection, so that nothing merges; vm.max_map_count is 65530 or more */
        char *all = mmap(NULL, 400UL << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(all != MAP_FAILED);
        for (unsigned long i = 0; i < 2000; i++) CHECK(mprotect(all + 2 * i * 4096, 4096, PROT_NONE) == 0);
        for (unsigned long i = 0; i < 2000; i++) CHECK(mprotect(all + 2 * i * 4096, 4096, PROT_READ) == 0);
        _exit(7);
    }), 7);
}

TEST(descriptors_run_out_at_their_limit_and_can_all_be_closed) {
    CHECK_EXIT(CHILD({
        limit(RLIMIT_NOFILE, 200);
        int fd;
        int last = -1;
        while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
        CHECK_EQ(errno, EMFILE);
        CHECK_EQ(last, 199);
        int p[2];
        CHECK_ERR(pipe(p), EMFILE);
        CHECK_ERR(dup(0), EMFILE);
        CHECK_ERR(socket(AF_UNIX, SOCK_STREAM, 0), EMFILE);
        for (fd = 0; fd < 1024; fd++) close(fd);
        CHECK_ERR(write(2, "x", 1), EBADF);
        CHECK(open("/dev/null", O_RDWR) == 0);
        _exit(7);
    }), 7);
    CHECK_EXIT(CHILD({
        CHECK(syscall(SYS_close_range, 0, ~0U, 0) == 0);
        CHECK_ERR(fcntl(0, F_GETFD), EBADF);
        _exit(7);
    }), 7);
    still_works();
}

TEST(a_file_that_would_be_too_long_is_not_begun) {
    CHECK_EXIT(CHILD({
        signal(SIGXFSZ, SIG_IGN);
        limit(RLIMIT_FSIZE, 1 << 20);
        int fd = open("long", O_RDWR | O_CREAT, 0600);
        CHECK(fd >= 0);
        CHECK_ERR(ftruncate(fd, 1L << 40), EFBIG);
        CHECK(pwrite(fd, "x", 1, (1 << 20) - 1) == 1);
        CHECK_ERR(pwrite(fd, "x", 1, 1 << 20), EFBIG);
        _exit(7);
    }), 7);
    still_works();
}

TEST(a_pipe_and_a_socket_that_nobody_reads_take_only_so_much) {
    char block[4096] = {0};
    int p[2], s[2];
    CHECK(pipe2(p, O_NONBLOCK) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0);
    ssize_t n;
    size_t in_pipe = 0, in_socket = 0;
    while ((n = write(p[1], block, sizeof block)) > 0) in_pipe += n;
    CHECK_EQ(errno, EAGAIN);
    while ((n = write(s[1], block, sizeof block)) > 0) in_socket += n;
    CHECK_EQ(errno, EAGAIN);
    CHECK_EQ(in_pipe, 65536);
    CHECK(in_socket >= 65536 && in_socket < (4 << 20));
    still_works();
}

TEST(argument_lists_and_names_of_absurd_size_are_refused) {
    size_t size = 8 << 20;
    char *big = malloc(size + 1);
    memset(big, 'a', size);
    big[size] = 0;
    CHECK_ERR(open(big, O_RDONLY), ENAMETOOLONG);
    CHECK_ERR(mkdir(big, 0700), ENAMETOOLONG);
    char *argv[] = {"true", big, NULL};
    CHECK_ERR(execve("/proc/self/exe", argv, argv), E2BIG);
    struct iovec *many = calloc(1025, sizeof *many);
    CHECK_ERR(syscall(SYS_writev, 1, many, 1025), EINVAL);
    CHECK_ERR(syscall(SYS_poll, big, 1UL << 30, 0), EINVAL);
    still_works();
}

TEST(signals_without_number_are_queued_only_up_to_the_limit) {
    // What counts is what is queued for all processes of a user: be one that nobody else is.
    uid_t alone = 0;
    CHECK(getrandom(&alone, 3, 0) == 3);
    CHECK(setresuid(100000 + alone, 100000 + alone, 100000 + alone) == 0);
    limit(RLIMIT_SIGPENDING, 100);
    sigset_t set = signal_set(SIGRTMIN, 0);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    int queued = 0;
    union sigval value = {0};
    while (sigqueue(getpid(), SIGRTMIN, value) == 0) queued++;
    CHECK_EQ(errno, EAGAIN);
    CHECK(queued <= 100 && queued >= 50);
    still_works();
}
