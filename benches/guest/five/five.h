/* What the five small files of the compiler's row offer each other. */
void sort(int *v, int n);
int words(const char *text);
void reverse(char *text);
void multiply(const double *a, const double *b, double *c, int n);
double trace(const double *a, int n);
void put(const char *name, int value);
int get(const char *name);
