/*
 * Measures how costs grow, from the inside, natively or in a container. Prints "NAME nanoseconds".
 *
 *     growth throughput N        N threads read one byte in a loop: time divided by the reads of all
 *     growth trap N              a read of one byte while N - 1 other threads are blocked
 *     growth directory DIR N     stat, open, create and list in a directory of N files, which is made if it is not there
 *     growth epoll N             epoll_wait with N descriptors of which one is ready
 *     growth regions N           mmap+munmap of a page in an address space of N regions
 */
#define _GNU_SOURCE
#include "measure.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THROUGHPUT_NS 400000000LL
enum { STACK = 65536 };

static int zero_fd;
static void read_byte(int fd) {
    char c = 1;
    if (read(fd, &c, 1) != 1 || c) die("read");
}
static void start_thread(void *(*run)(void *), void *arg) {
    static pthread_attr_t attr;
    static int ready;
    pthread_t t;
    if (!ready) {
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, STACK);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        ready = 1;
    }
    if (pthread_create(&t, &attr, run, arg)) die("pthread_create");
}

/* Throughput: each thread has a descriptor of its own and counts on a cache line of its own. */
static volatile int go, stop;
static int started, finished;
struct counter {
    long reads;
    char apart[56];
};
static void *reads_in_a_loop(void *arg) {
    struct counter *counter = arg;
    int fd = open("/dev/zero", O_RDONLY);
    if (fd < 0) die("/dev/zero");
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    while (!go) usleep(100);
    long n = 0;
    while (!stop) {
        read_byte(fd);
        n++;
    }
    counter->reads = n;
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
    return NULL;
}
static void throughput(int n) {
    struct counter *counters = calloc(n, sizeof *counters);
    for (int i = 0; i < n; i++) start_thread(reads_in_a_loop, &counters[i]);
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < n) usleep(1000);
    long long begin = now();
    go = 1;
    struct timespec span = {0, THROUGHPUT_NS};
    nanosleep(&span, NULL);
    stop = 1;
    while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) < n) usleep(1000);
    long long took = now() - begin;
    long reads = 0;
    for (int i = 0; i < n; i++) reads += counters[i].reads;
    if (!reads) die("no reads");
    dprintf(1, "throughput_%d %.1f\n", n, (double)took / reads);
}

/* The cost of one trap beside threads that sleep. */
static uint32_t never;
static void *blocks(void *arg) {
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    for (;;) syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return arg;
}
static void one_read(void) { read_byte(zero_fd); }
static void trap(int n) {
    for (int i = 1; i < n; i++) start_thread(blocks, NULL);
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < n - 1) usleep(1000);
    usleep(50000); /* the last of them reach their wait */
    dprintf(1, "trap_%d %.1f\n", n, median_ns(one_read, 1));
}

/* A directory: names are taken in an order that jumps about, but is the same each time. */
static const char *directory;
static int files;
static unsigned step;
static void name_of(char *name, unsigned i) { snprintf(name, 32, "file-%08u", i); }
static void next_name(char *name) {
    step = step * 1664525u + 1013904223u;
    name_of(name, (step >> 8) % files);
}
static void make_files(void) {
    char name[32];
    if (mkdir(directory, 0755) == 0) {
        if (chdir(directory)) die(directory);
        for (int i = 0; i < files; i++) {
            name_of(name, i);
            int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
            if (fd < 0 || close(fd)) die(name);
        }
    } else if (chdir(directory)) die(directory);
}
static void op_stat(void) {
    char name[32];
    struct stat st;
    next_name(name);
    if (stat(name, &st)) die(name);
}
static void op_open(void) {
    char name[32];
    next_name(name);
    int fd = open(name, O_RDONLY);
    if (fd < 0 || close(fd)) die(name);
}
static void op_create(void) {
    int fd = open("new", O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0 || close(fd) || unlink("new")) die("new");
}
static void op_list(void) {
    DIR *d = opendir(".");
    int n = 0;
    if (!d) die(directory);
    while (readdir(d)) n++;
    closedir(d);
    if (n != files + 2) {
        fprintf(stderr, "%s: %d entries of %d\n", directory, n - 2, files);
        exit(1);
    }
}
static void in_directory(void) {
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"stat", op_stat}, {"open", op_open}, {"create", op_create}, {"list", op_list}};
    make_files();
    for (int i = 0; i < 4; i++) {
        double ns = median_ns(parts[i].run, i == 3 ? files : 1);
        dprintf(1, "directory_%s_%d %.1f\n", parts[i].name, files, ns);
    }
}

/* One ready descriptor of many, level-triggered. */
static int epoll_fd, first_fd;
static void op_wait(void) {
    struct epoll_event events[16];
    if (epoll_wait(epoll_fd, events, 16, -1) != 1 || events[0].data.fd != first_fd) die("epoll_wait");
}
static void epoll(int n) {
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < n; i++) {
        int fd = eventfd(i == n / 2, 0);
        if (fd < 0) die("eventfd");
        if (i == n / 2) first_fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
    dprintf(1, "epoll_%d %.1f\n", n, median_ns(op_wait, 1));
}

/* Regions that cannot be merged, because every second one is protected otherwise. */
static void op_map(void) {
    char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || munmap(p, 4096)) die("mmap");
}
static void regions(int n) {
    for (int i = 0; i < n; i++) {
        int protection = i % 2 ? PROT_READ | PROT_WRITE : PROT_NONE;
        if (mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) die("mmap");
    }
    dprintf(1, "regions_%d %.1f\n", n, median_ns(op_map, 1));
}

int main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[1] : "";
    int n = atoi(argv[argc - 1]);
    zero_fd = open("/dev/zero", O_RDONLY);
    if (zero_fd < 0) die("/dev/zero");
    if (n > 0 && argc == 3 && !strcmp(what, "throughput")) throughput(n);
    else if (n > 0 && argc == 3 && !strcmp(what, "trap")) trap(n);
    else if (n > 0 && argc == 3 && !strcmp(what, "epoll")) epoll(n);
    else if (n > 0 && argc == 3 && !strcmp(what, "regions")) regions(n);
    else if (n > 0 && argc == 4 && !strcmp(what, "directory")) {
        directory = argv[2];
        files = n;
        in_directory();
    } else {
        fprintf(stderr, "growth: see the head of growth.c\n");
        return 2;
    }
    return 0;
}
