// Calls made from files that are mapped again and again, changed in between, or in the copy that is mapped: a sandbox may do something about
// the places where calls are made often. Nothing may come of that but speed.
#include "check.h"

#include <stdatomic.h>

enum { HOT = 100, PAGE = 4096, FUNCTIONS = 12, APART = 256, AT = 512 };

static const int NUMBERS[] = {SYS_getppid, SYS_getpgrp, SYS_sched_yield, SYS_getppid};

static long answer(int number) {
    return number == SYS_getppid ? getppid() : number == SYS_getpgrp ? getpgrp() : 0;
}

static int number_of(int function) {
    return NUMBERS[function % 4];
}

// Two shapes: mov eax, NUMBER; syscall; ret. And with the number moved somewhere else: mov edx, NUMBER; mov eax, edx; syscall; nop...; ret.
static size_t put_function(unsigned char *place, int number, int shape) {
    unsigned char first[] = {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};
    unsigned char second[] = {0xba, 0, 0, 0, 0, 0x89, 0xd0, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90, 0xc3};
    memcpy(first + 1, &number, 4);
    memcpy(second + 1, &number, 4);
    memcpy(place, shape ? second : first, shape ? sizeof second : sizeof first);
    return shape ? sizeof second : sizeof first;
}

static void fill(unsigned char *code) {
    memset(code, 0x90, PAGE);
    for (int i = 0; i < FUNCTIONS; i++) put_function(code + AT + i * APART, number_of(i), i % 2);
}

static int code_file(void) {
    unsigned char code[PAGE];
    fill(code);
    int fd = open("code", O_RDWR | O_CREAT | O_TRUNC, 0755);
    CHECK(fd >= 0 && write(fd, code, PAGE) == PAGE);
    return fd;
}

static unsigned char *map_code(int fd) {
    unsigned char *code = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    CHECK(code != MAP_FAILED);
    return code;
}

static long call(const unsigned char *code, int function) {
    return ((long (*)(void))(uintptr_t)(code + AT + function * APART))();
}

static void call_all(const unsigned char *code, int times) {
    long want[FUNCTIONS];
    for (int i = 0; i < FUNCTIONS; i++) want[i] = answer(number_of(i));
    for (int n = 0; n < times; n++)
        for (int i = 0; i < FUNCTIONS; i++) CHECK_EQ(call(code, i), want[i]);
}

// What the kernel reads, and what the program does.
static void check_bytes(const unsigned char *code) {
    unsigned char want[PAGE], got[PAGE];
    fill(want);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK(write(p[1], code, PAGE) == PAGE);
    CHECK(read(p[0], got, PAGE) == PAGE);
    CHECK(memcmp(got, want, PAGE) == 0);
    CHECK(close(p[0]) == 0 && close(p[1]) == 0);
}

TEST(a_file_that_is_mapped_again_does_what_it_did) {
    int fd = code_file();
    for (int round = 0; round < 5; round++) {
        unsigned char *code = map_code(fd);
        call_all(code, HOT);
        check_bytes(code);
        // Another mapping of it is on its own.
        unsigned char *other = map_code(fd);
        call_all(other, 1);
        call_all(code, 1);
        CHECK(memcmp(other, (unsigned char *)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0), 16) == 0);
        if (round % 2) CHECK(munmap(code, PAGE) == 0);
        call_all(other, HOT);
        check_bytes(other);
    }
}

TEST(children_that_map_it_anew_do_what_they_should) {
    int fd = code_file();
    for (int round = 0; round < 8; round++) {
        pid_t pid = CHILD({
            unsigned char *code = map_code(fd);
            call_all(code, HOT);
            check_bytes(code);
        });
        CHECK_EXIT(pid, 0);
    }
}

TEST(a_copy_that_was_changed_does_what_it_says) {
    int fd = code_file();
    unsigned char *code = map_code(fd);
    call_all(code, HOT);
    unsigned char *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(copy != MAP_FAILED);
    // mov eax, 0x050f050f; ret, of which the call's own two bytes are a part; and another call.
    static const unsigned char constant[] = {0xb8, 0x0f, 0x05, 0x0f, 0x05, 0xc3};
    memcpy(copy + AT + 2, constant, sizeof constant);
    memset(copy + AT, 0x90, 2);
    put_function(copy + AT + APART, SYS_getpid, 1);
    CHECK(mprotect(copy, PAGE, PROT_READ | PROT_EXEC) == 0);
    for (int n = 0; n < HOT; n++) {
        CHECK_EQ(call(copy, 0), 0x050f050f);
        CHECK_EQ(call(copy, 1), getpid());
        for (int i = 2; i < FUNCTIONS; i++) CHECK_EQ(call(copy, i), answer(number_of(i)));
    }
    call_all(code, HOT);
}

TEST(a_file_that_was_changed_does_what_it_says_now) {
    int fd = code_file();
    unsigned char *code = map_code(fd);
    call_all(code, HOT);
    CHECK(munmap(code, PAGE) == 0);
    // Where the calls were there are constants now, and calls where nothing was.
    unsigned char changed[PAGE];
    memset(changed, 0x90, PAGE);
    for (int i = 0; i < FUNCTIONS; i++) {
        unsigned char *function = changed + AT + i * APART;
        static const unsigned char constant[] = {0xb8, 0x0f, 0x05, 0x0f, 0x05, 0xc3};
        memcpy(function + (i % 2 ? 5 : 4), constant, sizeof constant);
        put_function(function + 64, SYS_getppid, 1 - i % 2);
    }
    CHECK(pwrite(fd, changed, PAGE, 0) == PAGE);
    code = map_code(fd);
    for (int n = 0; n < HOT; n++) {
        for (int i = 0; i < FUNCTIONS; i++) {
            CHECK_EQ(call(code, i), 0x050f050f);
            CHECK_EQ(((long (*)(void))(uintptr_t)(code + AT + i * APART + 64))(), getppid());
        }
    }
}

static atomic_bool over;
static unsigned char *shared_code;

static void *caller(void *argument) {
    (void)argument;
    while (!over) call_all(shared_code, 1);
    return NULL;
}

TEST(threads_that_are_there_already_do_not_stumble) {
    int fd = code_file();
    call_all(map_code(fd), HOT);
    for (int round = 0; round < 10; round++) {
        shared_code = map_code(fd);
        over = false;
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, caller, NULL) == 0);
        call_all(shared_code, HOT / 4);
        over = true;
        for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
        check_bytes(shared_code);
        CHECK(munmap(shared_code, PAGE) == 0);
    }
}

static atomic_int signals;

static void count(int signal) {
    (void)signal;
    signals++;
}

TEST(signals_come_through_while_a_file_is_mapped_again) {
    int fd = code_file();
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int round = 0; round < 40 || signals < 20; round++) {
        unsigned char *code = map_code(fd);
        call_all(code, 5);
        CHECK(munmap(code, PAGE) == 0);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

TEST(another_user_does_what_it_should) {
    int fd = code_file();
    call_all(map_code(fd), HOT);
    for (int round = 0; round < 3; round++) {
        pid_t pid = CHILD({
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
            unsigned char *code = map_code(fd);
            call_all(code, HOT);
            check_bytes(code);
        });
        CHECK_EXIT(pid, 0);
    }
}
