/* Terminals: pty pairs, line discipline, control characters, job control, window size. */
#include "check.h"
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;
static char slave_name[64];
static void open_pty(void) {
    master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(master >= 0);
    int unlock = 0, n;
    CHECK(ioctl(master, TIOCSPTLCK, &unlock) == 0 && ioctl(master, TIOCGPTN, &n) == 0);
    snprintf(slave_name, sizeof slave_name, "/dev/pts/%d", n);
    slave = open(slave_name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(slave >= 0);
}
static void put(int fd, const char *text) { CHECK_EQ(write(fd, text, strlen(text)), strlen(text)); }
static char *get(int fd) {
    static char text[5000];
    struct pollfd pf = {fd, POLLIN, 0};
    CHECK_EQ(poll(&pf, 1, 5000), 1);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n >= 0);
    text[n] = 0;
    return text;
}
static bool quiet(int fd) {
    struct pollfd pf = {fd, POLLIN, 0};
    return poll(&pf, 1, 0) == 0;
}
static void flags(tcflag_t local_off, tcflag_t local_on) {
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_lflag = (t.c_lflag & ~local_off) | local_on;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}
/* Makes this process the leader of a new session with the pty as its terminal. */
static void take_terminal(void) {
    CHECK(setsid() > 0);
    CHECK(ioctl(slave, TIOCSCTTY, 0) == 0);
}

TEST(a_pty_is_a_pair_of_terminals) {
    open_pty();
    CHECK(isatty(slave) && isatty(master));
    CHECK_STR(ttyname(slave), slave_name);
    struct stat st;
    CHECK(fstat(slave, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev >> 8 == 136);
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    CHECK((t.c_lflag & (ICANON | ECHO | ISIG)) == (ICANON | ECHO | ISIG) && (t.c_oflag & (OPOST | ONLCR)) == (OPOST | ONLCR));
    CHECK((t.c_iflag & ICRNL) && t.c_cc[VINTR] == 3 && t.c_cc[VEOF] == 4 && t.c_cc[VERASE] == 0x7f);
    CHECK_EQ(cfgetospeed(&t), B38400);
}

TEST(canonical_input_waits_for_the_line) {
    open_pty();
    flags(ECHO, 0);
    put(master, "hel");
    CHECK(quiet(slave));
    put(master, "lo\rnext");
    CHECK_STR(get(slave), "hello\n");
    CHECK(quiet(slave));
    put(master, "\n");
    char c;
    CHECK(read(slave, &c, 1) == 1 && c == 'n');
    CHECK_STR(get(slave), "ext\n");
}

TEST(editing_characters_edit) {
    open_pty();
    flags(ECHO, 0);
    put(master, "abX\x7f" "c\n");
    CHECK_STR(get(slave), "abc\n");
    put(master, "all gone\x15kept\n");
    CHECK_STR(get(slave), "kept\n");
    put(master, "one two\x17three\n");
    CHECK_STR(get(slave), "one three\n");
    put(master, "\x16\x03\n");
    CHECK_STR(get(slave), "\x03\n"); /* quoted ^C */
    put(master, "par\x04");
    CHECK_STR(get(slave), "par");
    put(master, "\x04");
    CHECK_STR(get(slave), "");
}

TEST(echo_and_output_processing) {
    open_pty();
    put(master, "hi\r");
    CHECK_STR(get(master), "hi\r\n");
    CHECK_STR(get(slave), "hi\n");
    put(slave, "a\nb\n");
    CHECK_STR(get(master), "a\r\nb\r\n");
    put(master, "x\x7f\x01\n");
    CHECK_STR(get(master), "x\b \b^A\r\n");
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_oflag &= ~OPOST;
    CHECK(tcsetattr(slave, TCSADRAIN, &t) == 0);
    put(slave, "a\n");
    CHECK_STR(get(master), "a\n");
}

TEST(raw_mode_passes_everything_with_min_and_time) {
    open_pty();
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    cfmakeraw(&t);
    t.c_cc[VMIN] = 3, t.c_cc[VTIME] = 0;
    CHECK(tcsetattr(slave, TCSAFLUSH, &t) == 0);
    pid_t pid = CHILD({
        char b[10] = {0};
        CHECK_EQ(read(slave, b, 10), 3);
        CHECK_STR(b, "\x03\r\x04");
    });
    put(master, "\x03\r");
    wait_blocked(pid);
    put(master, "\x04");
    CHECK_EXIT(pid, 0);
    t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 1;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
    char c;
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(read(slave, &c, 1), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 90000000);
    t.c_cc[VTIME] = 0;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
    CHECK_EQ(read(slave, &c, 1), 0);
    CHECK(fcntl(slave, F_SETFL, O_NONBLOCK) == 0);
}

TEST(flush_and_queue_sizes) {
    open_pty();
    flags(ECHO, 0);
    put(master, "line\n");
    int n;
    struct pollfd pf = {slave, POLLIN, 0};
    CHECK(poll(&pf, 1, 5000) == 1 && ioctl(slave, FIONREAD, &n) == 0 && n == 5);
    CHECK(tcflush(slave, TCIFLUSH) == 0 && quiet(slave));
    put(slave, "out");
    CHECK_STR(get(master), "out");
    CHECK(ioctl(slave, TIOCOUTQ, &n) == 0 && n == 0);
}

static volatile sig_atomic_t winch;
static void on_winch(int sig) {
    (void)sig;
    winch++;
}
TEST(window_size_and_sigwinch) {
    open_pty();
    struct winsize w = {24, 80, 0, 0}, got;
    CHECK(ioctl(master, TIOCSWINSZ, &w) == 0 && ioctl(slave, TIOCGWINSZ, &got) == 0);
    CHECK(got.ws_row == 24 && got.ws_col == 80);
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    pid_t pid = CHILD({
        handle_signal(SIGWINCH, on_winch, 0);
        sigset_t block = signal_set(SIGWINCH, 0), none = signal_set(0);
        sigprocmask(SIG_BLOCK, &block, NULL);
        take_terminal();
        CHECK(write(p[1], "r", 1) == 1);
        while (!winch) sigsuspend(&none);
        CHECK(ioctl(slave, TIOCGWINSZ, &got) == 0 && got.ws_row == 50);
    });
    CHECK(read(p[0], &c, 1) == 1);
    w.ws_row = 50;
    CHECK(ioctl(master, TIOCSWINSZ, &w) == 0);
    CHECK_EXIT(pid, 0);
}

TEST(the_controlling_terminal) {
    open_pty();
    pid_t pid = CHILD({
        pid_t me = setsid(), sid;
        CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
        CHECK_ERR(tcgetpgrp(slave), ENOTTY);
        CHECK(ioctl(slave, TIOCSCTTY, 0) == 0);
        CHECK(tcgetpgrp(slave) == me && tcgetsid(slave) == me);
        CHECK(ioctl(slave, TIOCGSID, &sid) == 0 && sid == me);
        int tty = open("/dev/tty", O_RDWR);
        CHECK(tty >= 0 && isatty(tty));
        put(tty, "by name");
        signal(SIGHUP, SIG_IGN);
        CHECK(ioctl(tty, TIOCNOTTY) == 0);
        CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
    });
    CHECK_EXIT(pid, 0);
    CHECK_STR(get(master), "by name");
    pid = CHILD({
        CHECK(setsid() > 0);
        CHECK(open(slave_name, O_RDWR) >= 0); /* a leader's first terminal becomes its own */
        CHECK_EQ(tcgetpgrp(slave), getpid());
    });
    CHECK_EXIT(pid, 0);
}

TEST(control_characters_signal_the_foreground_group) {
    open_pty();
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    static const struct { const char *key; int sig; } keys[] = {{"\x03", SIGINT}, {"\x1c", SIGQUIT}};
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (int i = 0; i < 2; i++) {
        pid_t leader = CHILD({
            take_terminal();
            signal(SIGTTOU, SIG_IGN);
            pid_t fg = CHILD({
                setpgid(0, 0);
                tcsetpgrp(slave, getpid());
                CHECK(write(p[1], "r", 1) == 1);
                for (;;) pause();
            });
            CHECK_KILLED(fg, keys[i].sig);
        });
        CHECK(read(p[0], &c, 1) == 1);
        put(master, keys[i].key);
        CHECK_EXIT(leader, 0);
        get(master); /* the echo */
    }
}

TEST(control_z_stops_and_continues) {
    open_pty();
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    pid_t leader = CHILD({
        take_terminal();
        signal(SIGTTOU, SIG_IGN);
        pid_t fg = CHILD({
            setpgid(0, 0);
            tcsetpgrp(slave, getpid());
            CHECK(write(p[1], "r", 1) == 1);
            for (;;) pause();
        });
        int st;
        CHECK_EQ(waitpid(fg, &st, WUNTRACED), fg);
        CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTSTP);
        CHECK(tcsetpgrp(slave, getpid()) == 0);
        CHECK(kill(-fg, SIGKILL) == 0);
        CHECK_KILLED(fg, SIGKILL);
    });
    CHECK(read(p[0], &c, 1) == 1);
    put(master, "\x1a");
    CHECK_EXIT(leader, 0);
}

TEST(a_background_reader_gets_sigttin_and_a_writer_sigttou_if_tostop) {
    open_pty();
    pid_t leader = CHILD({
        take_terminal();
        int st;
        pid_t bg = CHILD({
            setpgid(0, 0);
            char c;
            read(slave, &c, 1);
        });
        CHECK_EQ(waitpid(bg, &st, WUNTRACED), bg);
        CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTIN);
        kill(bg, SIGKILL);
        CHECK_KILLED(bg, SIGKILL);
        bg = CHILD({
            setpgid(0, 0);
            put(slave, "fine");
        });
        CHECK_EXIT(bg, 0);
        flags(0, TOSTOP);
        bg = CHILD({
            setpgid(0, 0);
            put(slave, "stopped");
        });
        CHECK_EQ(waitpid(bg, &st, WUNTRACED), bg);
        CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU);
        kill(bg, SIGKILL);
        CHECK_KILLED(bg, SIGKILL);
        bg = CHILD({
            setpgid(0, 0);
            signal(SIGTTIN, SIG_IGN);
            char c;
            CHECK_ERR(read(slave, &c, 1), EIO);
            struct termios t;
            CHECK(tcgetattr(slave, &t) == 0);
            tcsetattr(slave, TCSANOW, &t); /* changing stops whatever tostop says */
        });
        CHECK_EQ(waitpid(bg, &st, WUNTRACED), bg);
        CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU);
        kill(bg, SIGKILL);
        CHECK_KILLED(bg, SIGKILL);
    });
    CHECK_EXIT(leader, 0);
}

TEST(hanging_up) {
    open_pty();
    int p[2];
    char c;
    CHECK(pipe(p) == 0);
    pid_t leader = CHILD({
        close(master);
        take_terminal();
        CHECK(write(p[1], "r", 1) == 1);
        for (;;) pause();
    });
    CHECK(read(p[0], &c, 1) == 1);
    int keep = dup(slave);
    close(slave);
    close(master);
    CHECK_KILLED(leader, SIGHUP);
    CHECK_EQ(read(keep, &c, 1), 0);
    CHECK_ERR(write(keep, "x", 1), EIO);
}

TEST(the_master_sees_eio_when_no_slave_is_open) {
    open_pty();
    put(slave, "last words");
    close(slave);
    CHECK_STR(get(master), "last words");
    char c;
    CHECK_ERR(read(master, &c, 1), EIO);
    struct pollfd pf = {master, POLLIN, 0};
    CHECK(poll(&pf, 1, 0) == 1 && (pf.revents & POLLHUP));
}
