/* One of five small files for the compiler's row. */
#include "five.h"
static void swap(int *a, int *b) {
    int t = *a;
    *a = *b;
    *b = t;
}
void sort(int *v, int n) {
    if (n < 2) return;
    swap(&v[0], &v[n / 2]);
    int last = 0;
    for (int i = 1; i < n; i++)
        if (v[i] < v[0]) swap(&v[++last], &v[i]);
    swap(&v[0], &v[last]);
    sort(v, last);
    sort(v + last + 1, n - last - 1);
}
