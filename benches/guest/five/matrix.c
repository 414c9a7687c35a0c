/* One of five small files for the compiler's row. */
#include "five.h"
void multiply(const double *a, const double *b, double *c, int n) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++) sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum;
        }
}
double trace(const double *a, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i * n + i];
    return sum;
}
