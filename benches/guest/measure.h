/*
 * What the measuring programs share: a clock, an end with a message, and the median of batches.
 *
 * Each operation runs in batches of about 10 ms; the figure is the median batch, so that
 * a neighbour's interruption does not count.
 */
#ifndef MEASURE_H
#define MEASURE_H
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCHES 11
#define BATCH_NS 10000000LL

static inline void die(const char *what) {
    perror(what);
    exit(1);
}
static inline long long now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds of one of the `parts` operations that each run makes. */
static inline double median_ns(void (*run)(void), int parts) {
    long long start = now();
    run();
    long long once = now() - start;
    long runs = once > BATCH_NS ? 1 : BATCH_NS / (once > 50 ? once : 50);
    double batch[BATCHES];
    for (int b = -1; b < BATCHES; b++) { /* one to warm up */
        start = now();
        for (long i = 0; i < runs; i++) run();
        long long took = now() - start;
        if (b >= 0) batch[b] = (double)took / runs / parts;
        else if (took > 2 * BATCH_NS && runs > 1) runs = runs * BATCH_NS / took + 1;
        else if (took < BATCH_NS / 2) runs = runs * (double)BATCH_NS / (took + 1) + 1;
    }
    qsort(batch, BATCHES, sizeof *batch, by_value);
    return batch[BATCHES / 2];
}
#endif
