/*
 * Measures operations from the inside, natively or in a container.
 *
 *     operations              prints "name nanoseconds" for every operation
 *     operations NAME...      only these
 *     operations --threads N  makes N threads that block, prints "ready", waits for ever
 *     operations --true       does nothing; what fork+exec starts
 *
 * Each operation runs in batches of about 10 ms; the figure is the median batch, so that
 * a neighbour's interruption does not count.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BATCHES 15
#define BATCH_NS 10000000LL

static void die(const char *what) {
    perror(what);
    exit(1);
}
static long long now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static int zero_fd, null_fd, file_fd;
static int there[2], back[2];
static volatile uint32_t turn;
static char *big;
static const char *self;

static void op_getpid(void) { syscall(SYS_getpid); }
static void op_read1(void) {
    char c;
    if (read(zero_fd, &c, 1) != 1) die("read");
}
static void op_write1(void) {
    if (write(null_fd, "x", 1) != 1) die("write");
}
static void op_pipe(void) {
    char c = 0;
    if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) die("pipe");
}
static void futex_pass(uint32_t mine) {
    turn = !mine;
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    while (turn != mine) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
}
static void op_futex(void) { futex_pass(0); }
static void op_stat(void) {
    struct stat st;
    if (stat("file", &st)) die("stat");
}
static void op_open_close(void) {
    int fd = open("file", O_RDONLY);
    if (fd < 0) die("open");
    close(fd);
}
static void reap(pid_t pid) {
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status) die("child");
}
static void op_fork_wait(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    reap(pid);
}
static void run_self(void) {
    execl(self, "operations", "--true", NULL);
    _exit(1);
}
static void op_fork_exec(void) {
    pid_t pid = fork();
    if (pid == 0) run_self();
    reap(pid);
}
static void op_vfork_exec(void) {
    pid_t pid = vfork();
    if (pid == 0) run_self();
    reap(pid);
}
static void op_mmap_touch_munmap(void) {
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    *(volatile char *)p = 1;
    munmap(p, 4096);
}
enum { TOUCH_PAGES = 4096 };
static void op_touch_pages(void) {
    char *p = mmap(NULL, TOUCH_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    madvise(p, TOUCH_PAGES * 4096, MADV_NOHUGEPAGE);
    for (int i = 0; i < TOUCH_PAGES; i++) ((volatile char *)p)[i * 4096] = 1;
    munmap(p, TOUCH_PAGES * 4096);
}
static void op_read4k(void) {
    if (pread(file_fd, big, 4096, 0) != 4096) die("pread");
}
static void op_write4k(void) {
    if (pwrite(file_fd, big, 4096, 0) != 4096) die("pwrite");
}
static void op_read1m(void) {
    if (pread(file_fd, big, 1 << 20, 0) != 1 << 20) die("pread");
}
static void op_write1m(void) {
    if (pwrite(file_fd, big, 1 << 20, 0) != 1 << 20) die("pwrite");
}
static void *nothing(void *arg) { return arg; }
static void op_thread(void) {
    pthread_t t;
    if (pthread_create(&t, NULL, nothing, NULL) || pthread_join(t, NULL)) die("thread");
}

static void *futex_partner(void *arg) {
    while (turn != 1) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    for (;;) futex_pass(1);
    return arg;
}
static pid_t pipe_partner;
static void start_pipe(void) {
    if (pipe(there) || pipe(back)) die("pipe");
    pipe_partner = fork();
    if (pipe_partner == 0) {
        char c;
        close(there[1]);
        close(back[0]);
        while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1) {}
        _exit(0);
    }
    close(there[0]);
    close(back[1]);
}
static void stop_pipe(void) {
    close(there[1]);
    close(back[0]);
    reap(pipe_partner);
}
static void start_futex(void) {
    pthread_t t;
    if (pthread_create(&t, NULL, futex_partner, NULL)) die("thread");
}

static const struct operation {
    const char *name;
    void (*run)(void);
    int parts; /* how many operations one run is */
    void (*start)(void), (*stop)(void);
} operations[] = {
    {"getpid", op_getpid, 1, NULL, NULL},
    {"read_1_byte", op_read1, 1, NULL, NULL},
    {"write_1_byte", op_write1, 1, NULL, NULL},
    {"stat", op_stat, 1, NULL, NULL},
    {"open_close", op_open_close, 1, NULL, NULL},
    {"pipe_ping_pong", op_pipe, 1, start_pipe, stop_pipe},
    {"mmap_touch_munmap", op_mmap_touch_munmap, 1, NULL, NULL},
    {"page_touch", op_touch_pages, TOUCH_PAGES, NULL, NULL},
    {"read_4_kib", op_read4k, 1, NULL, NULL},
    {"write_4_kib", op_write4k, 1, NULL, NULL},
    {"read_1_mib", op_read1m, 1, NULL, NULL},
    {"write_1_mib", op_write1m, 1, NULL, NULL},
    {"fork_wait", op_fork_wait, 1, NULL, NULL},
    {"vfork_exec", op_vfork_exec, 1, NULL, NULL},
    {"fork_exec", op_fork_exec, 1, NULL, NULL},
    {"thread_create_join", op_thread, 1, NULL, NULL},
    {"futex_ping_pong", op_futex, 1, start_futex, NULL}, /* last: its thread stays */
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double measure(const struct operation *o) {
    if (o->start) o->start();
    long long start = now();
    o->run();
    long once = now() - start;
    long runs = once > BATCH_NS ? 1 : BATCH_NS / (once > 50 ? once : 50);
    double batch[BATCHES];
    for (int b = -1; b < BATCHES; b++) { /* one to warm up */
        start = now();
        for (long i = 0; i < runs; i++) o->run();
        long long took = now() - start;
        if (b >= 0) batch[b] = (double)took / runs / o->parts;
        else if (took > 2 * BATCH_NS && runs > 1) runs = runs * BATCH_NS / took + 1;
        else if (took < BATCH_NS / 2) runs = runs * (double)BATCH_NS / (took + 1) + 1;
    }
    if (o->stop) o->stop();
    qsort(batch, BATCHES, sizeof *batch, by_value);
    return batch[BATCHES / 2];
}

static uint32_t never;
static int started;
static void *block(void *arg) {
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    for (;;) syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return arg;
}
__attribute__((noreturn)) static void block_threads(int n) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16384);
    for (int i = 0; i < n; i++) {
        pthread_t t;
        if (pthread_create(&t, &attr, block, NULL)) die("thread");
    }
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < n) usleep(1000);
    dprintf(1, "ready\n");
    for (;;) pause();
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--true")) return 0;
    if (argc == 3 && !strcmp(argv[1], "--threads")) block_threads(atoi(argv[2]));
    static char path[4096];
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) die("/proc/self/exe");
    self = path;
    char dir[] = "/tmp/operations.XXXXXX";
    if (!mkdtemp(dir) || chdir(dir)) die(dir);
    zero_fd = open("/dev/zero", O_RDONLY);
    null_fd = open("/dev/null", O_WRONLY);
    file_fd = open("file", O_RDWR | O_CREAT, 0600);
    if (zero_fd < 0 || null_fd < 0 || file_fd < 0) die("open");
    big = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    memset(big, 'x', 1 << 20);
    op_write1m();
    for (unsigned i = 0; i < sizeof operations / sizeof *operations; i++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++) wanted |= !strcmp(argv[a], operations[i].name);
        if (wanted) dprintf(1, "%s %.1f\n", operations[i].name, measure(&operations[i]));
    }
    unlink("file");
    rmdir(dir);
    return 0;
}
