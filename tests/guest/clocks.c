/* Clocks, sleeping, interval timers, POSIX timers, times. */
#include "check.h"
#include <sys/timex.h>
#include <sys/times.h>

static volatile sig_atomic_t count;
static siginfo_t info;
static void note(int sig, siginfo_t *si, void *uc) {
    (void)sig, (void)uc;
    count++;
    info = *si;
}
static void catch(int sig) {
    struct sigaction sa = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(sig, &sa, NULL) == 0);
}
/* Waits in sigsuspend until `n` signals came; the signal must be blocked. */
static void wait_count(int n) {
    sigset_t none = signal_set(0);
    while (count < n) sigsuspend(&none);
}
static void block(int sig) {
    sigset_t set = signal_set(sig, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

TEST(clocks_run_forward_and_agree) {
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW,
                                       CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID,
                                       CLOCK_THREAD_CPUTIME_ID, CLOCK_TAI};
    for (unsigned c = 0; c < sizeof clocks / sizeof *clocks; c++) {
        long long last = 0;
        for (int i = 0; i < 1000; i++) {
            long long t = now_ns(clocks[c]);
            CHECK(t >= last);
            last = t;
        }
        struct timespec res;
        CHECK(clock_getres(clocks[c], &res) == 0 && res.tv_sec == 0 && res.tv_nsec > 0);
    }
    struct timeval tv;
    CHECK(gettimeofday(&tv, NULL) == 0);
    CHECK(llabs(tv.tv_sec * 1000000LL + tv.tv_usec - now_ns(CLOCK_REALTIME) / 1000) < 1000000);
    CHECK(llabs(time(NULL) - tv.tv_sec) <= 1);
    CHECK(now_ns(CLOCK_BOOTTIME) >= now_ns(CLOCK_MONOTONIC) - 1000000);
    struct timespec ts;
    CHECK_ERR(clock_gettime(99, &ts), EINVAL);
}

TEST(the_vdso_and_the_call_tell_the_same_time) {
    for (int i = 0; i < 100; i++) {
        struct timespec raw;
        long long before = now_ns(CLOCK_MONOTONIC);
        CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw) == 0);
        long long middle = raw.tv_sec * 1000000000LL + raw.tv_nsec;
        CHECK(before <= middle && middle <= now_ns(CLOCK_MONOTONIC));
    }
    struct timespec raw;
    CHECK(syscall(SYS_clock_gettime, CLOCK_REALTIME, &raw) == 0);
    CHECK(llabs(raw.tv_sec - now_ns(CLOCK_REALTIME) / 1000000000) <= 1);
}

TEST(cpu_clocks_count_work_and_not_sleep) {
    long long cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), wall = now_ns(CLOCK_MONOTONIC);
    usleep(50000);
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu < 40000000);
    CHECK(now_ns(CLOCK_MONOTONIC) - wall >= 50000000);
    cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), wall = now_ns(CLOCK_MONOTONIC);
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu < 20000000) {}
    CHECK(now_ns(CLOCK_MONOTONIC) - wall >= 15000000);
    struct tms t;
    CHECK(times(&t) != -1 && t.tms_utime + t.tms_stime >= 1);
    clockid_t id;
    CHECK(clock_getcpuclockid(getpid(), &id) == 0);
    CHECK(now_ns(id) >= 20000000);
}

TEST(sleeping_relative_and_absolute) {
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK(usleep(10000) == 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 10000000);
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += 15000000;
    if (at.tv_nsec >= 1000000000) at.tv_sec++, at.tv_nsec -= 1000000000;
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) >= at.tv_sec * 1000000000LL + at.tv_nsec);
    CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &(struct timespec){1, 0}, NULL), 0);
    CHECK_ERR(nanosleep(&(struct timespec){0, 1000000000}, NULL), EINVAL);
    CHECK_ERR(nanosleep(&(struct timespec){-1, 0}, NULL), EINVAL);
    CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &(struct timespec){0, 1}, NULL), EINVAL);
}

TEST(alarm_fires_once_and_tells_what_was_left) {
    catch(SIGALRM);
    block(SIGALRM);
    CHECK_EQ(alarm(100), 0);
    CHECK(alarm(0) >= 99);
    struct itimerval it = {{0, 0}, {0, 20000}}, old;
    long long start = now_ns(CLOCK_MONOTONIC);
    CHECK(setitimer(ITIMER_REAL, &it, &old) == 0 && old.it_value.tv_sec == 0);
    CHECK(getitimer(ITIMER_REAL, &old) == 0 && old.it_value.tv_usec <= 20000);
    wait_count(1);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20000000);
    CHECK(info.si_code == SI_KERNEL);
    CHECK(getitimer(ITIMER_REAL, &old) == 0 && old.it_value.tv_usec == 0 && old.it_value.tv_sec == 0);
    it.it_value.tv_usec = 1000000;
    CHECK_ERR(setitimer(ITIMER_REAL, &it, NULL), EINVAL);
}

TEST(interval_timers_repeat_and_are_not_inherited) {
    catch(SIGALRM);
    block(SIGALRM);
    struct itimerval it = {{0, 5000}, {0, 5000}}, old;
    CHECK(setitimer(ITIMER_REAL, &it, NULL) == 0);
    pid_t pid = CHILD(CHECK(getitimer(ITIMER_REAL, &old) == 0 && !old.it_value.tv_usec && !old.it_interval.tv_usec));
    CHECK_EXIT(pid, 0);
    wait_count(5);
    memset(&it, 0, sizeof it);
    CHECK(setitimer(ITIMER_REAL, &it, &old) == 0 && old.it_interval.tv_usec == 5000);
}

TEST(virtual_and_profiling_timers_count_cpu_time) {
    catch(SIGVTALRM);
    struct itimerval it = {{0, 0}, {0, 20000}};
    CHECK(setitimer(ITIMER_VIRTUAL, &it, NULL) == 0);
    for (volatile unsigned long i = 0; !count; i++) {}
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) >= 10000000);
    catch(SIGPROF);
    count = 0;
    CHECK(setitimer(ITIMER_PROF, &it, NULL) == 0);
    for (volatile unsigned long i = 0; !count; i++) {}
}

TEST(posix_timers_signal_with_their_value_and_count_overruns) {
    catch(SIGRTMIN);
    block(SIGRTMIN);
    timer_t t;
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77};
    CHECK(timer_create(CLOCK_MONOTONIC, &ev, &t) == 0);
    struct itimerspec it = {{0, 2000000}, {0, 2000000}}, now;
    CHECK(timer_settime(t, 0, &it, NULL) == 0);
    usleep(30000); /* let it overrun while blocked */
    wait_count(1);
    CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 77);
    CHECK(info.si_overrun >= 5);
    CHECK(timer_gettime(t, &now) == 0 && now.it_interval.tv_nsec == 2000000);
    CHECK(timer_getoverrun(t) >= 5);
    CHECK(timer_delete(t) == 0);
    CHECK_ERR(timer_settime(t, 0, &it, NULL), EINVAL);
}

TEST(posix_timers_absolute_none_and_thread) {
    timer_t t;
    struct sigevent none = {.sigev_notify = SIGEV_NONE};
    CHECK(timer_create(CLOCK_REALTIME, &none, &t) == 0);
    struct itimerspec it = {{0, 0}, {100, 0}}, old;
    CHECK(timer_settime(t, 0, &it, NULL) == 0);
    CHECK(timer_gettime(t, &old) == 0 && old.it_value.tv_sec >= 99 - 1);
    it.it_value = (struct timespec){1, 0};
    CHECK(timer_settime(t, TIMER_ABSTIME, &it, &old) == 0 && old.it_value.tv_sec >= 98);
    catch(SIGUSR1);
    block(SIGUSR1);
    struct sigevent to_me = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    to_me._sigev_un._tid = my_tid();
    timer_t mine;
    CHECK(timer_create(CLOCK_MONOTONIC, &to_me, &mine) == 0);
    it.it_value = (struct timespec){0, 1000000};
    CHECK(timer_settime(mine, 0, &it, NULL) == 0);
    wait_count(1);
    CHECK_ERR(timer_create(77, &none, &t), EINVAL);
}

TEST(adjtimex_reads_without_privilege) {
    struct timex tx = {0};
    CHECK(adjtimex(&tx) >= 0);
}
