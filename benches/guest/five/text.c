/* One of five small files for the compiler's row. */
#include "five.h"
#include <ctype.h>
#include <string.h>
int words(const char *text) {
    int n = 0, inside = 0;
    for (; *text; text++) {
        int letter = isalpha((unsigned char)*text) != 0;
        n += letter && !inside;
        inside = letter;
    }
    return n;
}
void reverse(char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n / 2; i++) {
        char c = text[i];
        text[i] = text[n - 1 - i];
        text[n - 1 - i] = c;
    }
}
