/*
 * Times a command from the inside, natively or in a container.
 *
 *     timed [--pipe] [--inner] [--runs N] [--warm N] COMMAND ARGS...
 *
 * Prints "ns N" for each run after the first `--warm` ones, and at the end "output BYTES LINES SUM" of what the
 * command wrote, which must be the same in every run; SUM does not depend on the order of lines, because
 * directories are listed in any order. The output goes to a file in /tmp; with --pipe, to a pipe that is read
 * here (and only bytes are counted: the sum is 0). With --inner the command itself prints "ns N", which is taken
 * instead of the time of the whole run. It stops early when it has run for MOST_NS and has one figure.
 */
#define _GNU_SOURCE
#include "measure.h"
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_NS 2000000000LL
#define OUTPUT "/tmp/timed.output"

extern char **environ;

struct output {
    long bytes, lines;
    uint64_t sum;
    double inner_ns;
};

/* Bytes, lines and the sum of the lines' hashes (FNV-1a); lines that begin with "ns " are figures. */
static struct output read_file(void) {
    struct output out = {0, 0, 0, 0};
    FILE *file = fopen(OUTPUT, "r");
    if (!file) die(OUTPUT);
    char *line = NULL;
    size_t space = 0;
    ssize_t length;
    while ((length = getline(&line, &space, file)) > 0) {
        if (!strncmp(line, "ns ", 3)) {
            out.inner_ns = atof(line + 3);
            continue;
        }
        uint64_t hash = 0xcbf29ce484222325;
        for (ssize_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)line[i]) * 0x100000001b3;
        out.bytes += length;
        out.lines++;
        out.sum += hash;
    }
    free(line);
    fclose(file);
    return out;
}

static struct output drain(int fd) {
    static char buffer[65536];
    struct output out = {0, 0, 0, 0};
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) > 0) out.bytes += n;
    if (n < 0) die("read");
    close(fd);
    return out;
}

static double run(char **command, int piped, struct output *out) {
    int ends[2] = {-1, -1};
    if (piped) {
        if (pipe2(ends, O_CLOEXEC)) die("pipe");
    } else {
        ends[1] = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (ends[1] < 0) die(OUTPUT);
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    pid_t pid;
    int status;
    long long start = now();
    int error = posix_spawnp(&pid, command[0], &actions, NULL, command, environ);
    close(ends[1]);
    if (error) {
        fprintf(stderr, "%s: %s\n", command[0], strerror(error));
        exit(1);
    }
    if (piped) *out = drain(ends[0]);
    if (waitpid(pid, &status, 0) != pid) die("waitpid");
    double took = now() - start;
    posix_spawn_file_actions_destroy(&actions);
    if (status) {
        fprintf(stderr, "%s: wait status %#x\n", command[0], status);
        exit(1);
    }
    if (!piped) *out = read_file();
    return took;
}

int main(int argc, char **argv) {
    int piped = 0, inner = 0, runs = 1, warm = 0, a = 1;
    for (; a < argc && !strncmp(argv[a], "--", 2); a++) {
        if (!strcmp(argv[a], "--pipe")) piped = 1;
        else if (!strcmp(argv[a], "--inner")) inner = 1;
        else if (!strcmp(argv[a], "--runs") && a + 1 < argc) runs = atoi(argv[++a]);
        else if (!strcmp(argv[a], "--warm") && a + 1 < argc) warm = atoi(argv[++a]);
        else break;
    }
    if (a >= argc || runs < 1) {
        fprintf(stderr, "timed: see the head of timed.c\n");
        return 2;
    }
    struct output first = {0, 0, 0, 0}, out = first;
    long long start = now();
    for (int i = 0; i < warm + runs; i++) {
        double ns = run(argv + a, piped, &out);
        if (inner && (ns = out.inner_ns) <= 0) {
            fprintf(stderr, "%s gave no figure\n", argv[a]);
            return 1;
        }
        if (i == 0) first = out;
        if (out.bytes != first.bytes || out.lines != first.lines || out.sum != first.sum) {
            fprintf(stderr, "%s: run %d wrote something else than the first\n", argv[a], i);
            return 1;
        }
        if (i >= warm) dprintf(1, "ns %.0f\n", ns);
        if (i >= warm && now() - start > MOST_NS) break;
    }
    dprintf(1, "output %ld %ld %llx\n", first.bytes, first.lines, (unsigned long long)first.sum);
    return 0;
}
