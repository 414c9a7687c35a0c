# gcc and make: a C program of several files with threads, built in parallel, rebuilt, run.
set -u
cat >queue.h <<'END'
typedef struct queue queue;
queue *queue_new(int room);
void queue_put(queue *, int);
int queue_take(queue *);
END
cat >queue.c <<'END'
#include "queue.h"
#include <pthread.h>
#include <stdlib.h>
struct queue { int room, head, count; int *slots; pthread_mutex_t lock; pthread_cond_t some, space; };
queue *queue_new(int room) {
    queue *q = calloc(1, sizeof *q);
    q->room = room; q->slots = calloc(room, sizeof(int));
    pthread_mutex_init(&q->lock, 0); pthread_cond_init(&q->some, 0); pthread_cond_init(&q->space, 0);
    return q;
}
void queue_put(queue *q, int v) {
    pthread_mutex_lock(&q->lock);
    while (q->count == q->room) pthread_cond_wait(&q->space, &q->lock);
    q->slots[(q->head + q->count++) % q->room] = v;
    pthread_cond_signal(&q->some); pthread_mutex_unlock(&q->lock);
}
int queue_take(queue *q) {
    pthread_mutex_lock(&q->lock);
    while (!q->count) pthread_cond_wait(&q->some, &q->lock);
    int v = q->slots[q->head]; q->head = (q->head + 1) % q->room; q->count--;
    pthread_cond_signal(&q->space); pthread_mutex_unlock(&q->lock);
    return v;
}
END
cat >main.c <<'END'
#include "queue.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
static queue *q; static long sums[4];
static void *work(void *arg) { long *sum = arg; for (int v; (v = queue_take(q)) >= 0;) *sum += v; return 0; }
int main(void) {
    pthread_t t[4]; long total = 0; q = queue_new(8);
    for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, work, &sums[i]);
    for (int i = 1; i <= 10000; i++) queue_put(q, i);
    for (int i = 0; i < 4; i++) queue_put(q, -1);
    for (int i = 0; i < 4; i++) { pthread_join(t[i], 0); total += sums[i]; }
    printf("total %ld, root %.4f, built %s\n", total, sqrt((double)total), VERSION);
    return total == 50005000 ? 0 : 1;
}
END
cat >Makefile <<'END'
CFLAGS = -O2 -Wall -pthread -DVERSION='"1"'
prog: main.o queue.o ; $(CC) $(CFLAGS) -o $@ $^ -lm
main.o queue.o: queue.h
static: main.c queue.c ; $(CC) $(CFLAGS) -static -o $@ $^ -lm
lib.so: queue.c ; $(CC) $(CFLAGS) -fPIC -shared -o $@ $^
clean: ; rm -f prog static lib.so *.o
END
make -s -j2 prog && ./prog; echo "prog $?"
make -q prog && echo "up to date"; touch -d '+2 seconds' queue.h; make -n prog | grep -c main.c
make -s static && ./static; make -s lib.so && gcc -o dyn -pthread -DVERSION='"dynamic"' main.c ./lib.so -lm && ./dyn; LD_BIND_NOW=1 ./dyn >/dev/null && ldd ./dyn | grep -c '=>'
echo 'int main(void) { return undeclared; }' >bad.c; make bad 2>/dev/null; echo "make $?"; gcc -E -dM - </dev/null | grep -w __x86_64__; nm prog | grep -c ' T queue_'; strip prog && ./prog >/dev/null && echo "stripped runs"
printf 'int f(int x) { return x * 2; }\n' | gcc -O1 -S -xc -o - - | grep -c ret; objdump -d prog | head -n 2 | tail -n 1 | sed 's/ *file format/ is/'
make -s clean && ls *.o 2>/dev/null | wc -l; printf 'all: a b c\na b c: ; @sleep 0.05; echo $@ >$@.out\n' >p.mk && make -s -j3 -f p.mk && cat a.out b.out c.out
