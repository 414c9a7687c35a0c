# A fork bomb of an ordinary user meets RLIMIT_NPROC; everybody else stays well.
set -u
as_user() { setpriv --reuid=4242 --regid=4242 --clear-groups "$@"; }
as_user bash -c 'ulimit -u 40; exec perl -e "my \$n = 0; while (1) { my \$p = fork; last unless defined \$p; if (!\$p) { sleep 60; exit } \$n++ } print \"\$n children, then \$!\\n\""'
pkill -KILL -u 4242; until [ "$(ps -u 4242 -o pid= | wc -l)" = 0 ]; do pkill -KILL -u 4242; sleep 0.05; done
as_user timeout -s KILL 3 bash -c 'ulimit -u 60; bomb() { bomb | bomb & }; bomb; sleep 1' >/dev/null 2>&1
# Stopped, so that who comes and goes while they are counted is not counted twice.
for i in 1 2 3 4 5; do pkill -STOP -u 4242; done
[ "$(ps -u 4242 -o pid= | wc -l)" -le 60 ] && echo "within the limit"
for i in $(seq 1 500); do pkill -KILL -u 4242 || break; sleep 0.01; done
until [ "$(ps -u 4242 -o pid= | wc -l)" = 0 ]; do pkill -KILL -u 4242; sleep 0.05; done
for i in 1 2 3; do (exit $i); echo "still well $?"; done
