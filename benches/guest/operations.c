/*
 * Measures operations from the inside, natively or in a container.
 *
 *     operations NAME...      prints "NAME nanoseconds" for each
 *     operations --list       prints the names
 *     operations --threads N  makes N threads that block, prints "ready", waits for ever
 *     operations --true       does nothing; what fork+exec starts
 *
 * It expects a tmpfs on /tmp, a directory of the host on /bind, and /etc/passwd in the root.
 */
#define _GNU_SOURCE
#include "measure.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SMALL = 4096, BIG = 1 << 20, TOUCH_PAGES = 4096 };

static int zero_fd, null_fd, file_fd;
static const char *path; /* the file that the operation is about */
static int there[2], back[2];
static volatile uint32_t turn;
static char *big;
static char self[PATH_MAX];
static pid_t expected_pid;

/* Calls that need nothing. */
static void op_getpid_glibc(void) {
    if (getpid() != expected_pid) die("getpid");
}
static void op_getpid_syscall(void) {
    if (syscall(SYS_getpid) != expected_pid) die("getpid");
}
static void op_read1(void) {
    char c = 1;
    if (read(zero_fd, &c, 1) != 1 || c) die("read");
}
static void op_write1(void) {
    if (write(null_fd, "x", 1) != 1) die("write");
}

/* Pipes and futexes. */
static void op_pipe_alone(void) {
    char c = 'x', d = 0;
    if (write(there[1], &c, 1) != 1 || read(there[0], &d, 1) != 1 || d != 'x') die("pipe");
}
static void op_pipe(void) {
    char c = 'x', d = 0;
    if (write(there[1], &c, 1) != 1 || read(back[0], &d, 1) != 1 || d != 'x') die("pipe");
}
static void futex_pass(uint32_t mine) {
    turn = !mine;
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    while (turn != mine) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
}
static void op_futex(void) { futex_pass(0); }

/* Files. */
static void op_stat(void) {
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode)) die("stat");
}
static void op_open_close(void) {
    int fd = open(path, O_RDONLY);
    if (fd < 0 || close(fd)) die("open");
}
static void op_open_read_close(void) {
    int fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, big, SMALL) != SMALL || close(fd)) die("open+read");
}
static void op_read4k(void) {
    if (pread(file_fd, big, SMALL, 0) != SMALL) die("pread");
}
static void op_write4k(void) {
    if (pwrite(file_fd, big, SMALL, 0) != SMALL) die("pwrite");
}
static void op_read1m(void) {
    if (pread(file_fd, big, BIG, 0) != BIG) die("pread");
}
static void op_write1m(void) {
    if (pwrite(file_fd, big, BIG, 0) != BIG) die("pwrite");
}

/* Processes and threads. */
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
static void *nothing(void *arg) { return arg; }
static void op_thread(void) {
    pthread_t t;
    if (pthread_create(&t, NULL, nothing, NULL) || pthread_join(t, NULL)) die("thread");
}

/* Memory. */
static void op_mmap_touch_munmap(void) {
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    *(volatile char *)p = 1;
    if (munmap(p, 4096)) die("munmap");
}
static void op_touch_pages(void) {
    char *p = mmap(NULL, TOUCH_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    madvise(p, TOUCH_PAGES * 4096, MADV_NOHUGEPAGE);
    for (int i = 0; i < TOUCH_PAGES; i++) ((volatile char *)p)[i * 4096] = 1;
    if (munmap(p, TOUCH_PAGES * 4096)) die("munmap");
}

/* What an operation needs first, and what it leaves behind. */
static char made_dir[64], made_file[80];
static void make_file(const char *directory) {
    snprintf(made_dir, sizeof made_dir, "%s/operations.XXXXXX", directory);
    if (!mkdtemp(made_dir)) die(made_dir);
    snprintf(made_file, sizeof made_file, "%s/file", made_dir);
    file_fd = open(made_file, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file_fd < 0) die(made_file);
    op_write1m();
    path = made_file;
}
static void in_tmpfs(void) { make_file("/tmp"); }
static void in_bind(void) { make_file("/bind"); }
static void in_root(void) { path = "/etc/passwd"; }
static void remove_file(void) {
    close(file_fd);
    if (unlink(made_file) || rmdir(made_dir)) die(made_dir);
}
static void start_pipe_alone(void) {
    if (pipe(there)) die("pipe");
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
static void *futex_partner(void *arg) {
    while (turn != 1) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    for (;;) futex_pass(1);
    return arg;
}
static void start_futex(void) {
    static int has_partner;
    pthread_t t;
    if (has_partner++) return;
    if (pthread_create(&t, NULL, futex_partner, NULL)) die("thread");
}

static const struct operation {
    const char *name;
    void (*run)(void);
    int parts; /* how many operations one run is */
    void (*start)(void), (*stop)(void);
} operations[] = {
    {"getpid_glibc", op_getpid_glibc, 1, NULL, NULL},
    {"getpid_syscall", op_getpid_syscall, 1, NULL, NULL},
    {"write_1_byte", op_write1, 1, NULL, NULL},
    {"read_1_byte", op_read1, 1, NULL, NULL},
    {"pipe_one_thread", op_pipe_alone, 1, start_pipe_alone, NULL},
    {"pipe_ping_pong", op_pipe, 1, start_pipe, stop_pipe},
    {"stat_tmpfs", op_stat, 1, in_tmpfs, remove_file},
    {"stat_rootfs", op_stat, 1, in_root, NULL},
    {"stat_bind", op_stat, 1, in_bind, remove_file},
    {"open_close_tmpfs", op_open_close, 1, in_tmpfs, remove_file},
    {"open_close_rootfs", op_open_close, 1, in_root, NULL},
    {"open_read_close_bind", op_open_read_close, 1, in_bind, remove_file},
    {"thread_create_join", op_thread, 1, NULL, NULL},
    {"fork_wait", op_fork_wait, 1, NULL, NULL},
    {"vfork_exec", op_vfork_exec, 1, NULL, NULL},
    {"fork_exec", op_fork_exec, 1, NULL, NULL},
    {"mmap_touch_munmap", op_mmap_touch_munmap, 1, NULL, NULL},
    {"page_touch", op_touch_pages, TOUCH_PAGES, NULL, NULL},
    {"read_4_kib_tmpfs", op_read4k, 1, in_tmpfs, remove_file},
    {"read_4_kib_bind", op_read4k, 1, in_bind, remove_file},
    {"write_4_kib_tmpfs", op_write4k, 1, in_tmpfs, remove_file},
    {"write_4_kib_bind", op_write4k, 1, in_bind, remove_file},
    {"read_1_mib_tmpfs", op_read1m, 1, in_tmpfs, remove_file},
    {"read_1_mib_bind", op_read1m, 1, in_bind, remove_file},
    {"write_1_mib_tmpfs", op_write1m, 1, in_tmpfs, remove_file},
    {"write_1_mib_bind", op_write1m, 1, in_bind, remove_file},
    {"futex_ping_pong", op_futex, 1, start_futex, NULL}, /* its thread stays */
};
enum { COUNT = sizeof operations / sizeof *operations };

static void measure(const struct operation *o) {
    if (o->start) o->start();
    double ns = median_ns(o->run, o->parts);
    if (o->stop) o->stop();
    dprintf(1, "%s %.1f\n", o->name, ns);
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
    if (argc == 2 && !strcmp(argv[1], "--list")) {
        for (int i = 0; i < COUNT; i++) puts(operations[i].name);
        return 0;
    }
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) die("/proc/self/exe");
    expected_pid = getpid();
    zero_fd = open("/dev/zero", O_RDONLY);
    null_fd = open("/dev/null", O_WRONLY);
    if (zero_fd < 0 || null_fd < 0) die("open");
    big = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (big == MAP_FAILED) die("mmap");
    memset(big, 'x', BIG);
    for (int a = 1; a < argc; a++) {
        int i = 0;
        while (i < COUNT && strcmp(argv[a], operations[i].name)) i++;
        if (i == COUNT) {
            fprintf(stderr, "no operation %s\n", argv[a]);
            return 2;
        }
        measure(&operations[i]);
    }
    return 0;
}
