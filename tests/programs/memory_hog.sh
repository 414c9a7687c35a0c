# A memory hog meets RLIMIT_AS; the kernel and the next program stay well.
set -u
(ulimit -v 400000; python3 -c '
try:
    hog = bytearray(2 << 30)
    print("not reached")
except MemoryError:
    print("MemoryError")
blocks = []
try:
    while True:
        blocks.append(bytearray(10 << 20))
except MemoryError:
    print("stopped below the limit", 5 < len(blocks) < 40)
    blocks.clear()
print("and goes on", len(bytearray(50 << 20)) >> 20)'); echo "python $?"
(ulimit -v 200000; perl -e 'my $x = "x" x (1 << 30); print "not reached\n"' 2>&1 | cut -c1-14)
(ulimit -d 100000; perl -e 'my @x; push @x, "y" x 1000000 while 1' 2>&1 | cut -c1-14)
(ulimit -s 1024; bash -c 'f() { f; }; f' 2>/dev/null; echo "stack overflow $?")
for i in 1 2 3; do head -c 10000000 /dev/zero | tail -c 1 | wc -c; done
python3 -c 'x = bytearray(300 << 20); x[::4096] = b"1" * len(x[::4096]); print("300 MiB touched", sum(x[::4096]) // 49)'
