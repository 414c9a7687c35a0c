/* One of five small files for the compiler's row; prints what shows that the others work. */
#include "five.h"
#include <stdio.h>
int main(void) {
    int v[] = {5, 3, 9, 1, 7};
    double a[] = {1, 2, 3, 4}, b[] = {5, 6, 7, 8}, c[4];
    char text[] = "five small files";
    sort(v, 5);
    multiply(a, b, c, 2);
    put("five", 5);
    printf("%d %d %d %.0f %d\n", v[0], v[4], words(text), trace(c, 2), get("five"));
    reverse(text);
    puts(text);
    return 0;
}
