/* One of five small files for the compiler's row. */
#include "five.h"
#include <stdlib.h>
#include <string.h>
struct entry {
    struct entry *next;
    int value;
    char name[];
};
static struct entry *buckets[64];
static unsigned hash(const char *name) {
    unsigned h = 5381;
    while (*name) h = h * 33 + (unsigned char)*name++;
    return h % 64;
}
void put(const char *name, int value) {
    struct entry *e = malloc(sizeof *e + strlen(name) + 1);
    unsigned h = hash(name);
    strcpy(e->name, name);
    e->value = value;
    e->next = buckets[h];
    buckets[h] = e;
}
int get(const char *name) {
    for (struct entry *e = buckets[hash(name)]; e; e = e->next)
        if (!strcmp(e->name, name)) return e->value;
    return -1;
}
