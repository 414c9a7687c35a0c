# Coreutils on files, links, times, owners, pipes and text.
set -u
export TZ=UTC
umask 022
mkdir -p d/e && echo "content" >d/f && printf 'b\na\nc\na\n' >d/lines
ln d/f d/hard; ln -s f d/soft; ln -s nowhere d/broken
chmod 640 d/f; chown 1000:2000 d/lines; mkfifo d/pipe; chmod 1777 d/e
find d -print0 | xargs -0 touch -h -d '2020-02-02 02:02:02.123456789'
listing() { ls -lA --time-style=full-iso "$1" | awk '/^d/ { $5 = "-" } !/^total/'; } # a directory's size is its file system's affair
listing d
stat -c '%n %a %U:%G %h %s %F %Y %y' d/f d/lines d/soft d/pipe
cp -a d copy; listing copy; [ copy/f -ef copy/hard ] && echo "hard link kept"
mv copy moved; test -d copy || echo "copy is gone"; rm -r moved/e; rmdir moved 2>/dev/null || echo "not empty"; rm -rf moved
readlink d/soft; readlink -f d/soft | sed "s,$PWD,.,"; realpath --relative-to=d d/e/../f
sort d/lines | uniq -c; sort -u d/lines | tac; comm -12 <(sort -u d/lines) <(printf 'b\nc\n')
seq 1 20 | paste -sd+ ; seq 1 100 | shuf --random-source=/dev/zero | sort -n | tail -n 2; seq 10 | split -l 4 - part.; cat part.ac; wc -lwc part.*
cut -d: -f1,7 /etc/passwd | head -n 3; tr a-z A-Z <d/lines | nl; od -An -tx1 d/f; printf 'a\tb\n' | expand -t4 | cat -A
dd if=/dev/zero of=zeros bs=4k count=100 2>/dev/null; sha256sum zeros; md5sum d/f; cksum d/lines; b2sum d/f
dd if=/dev/zero of=sparse bs=1 count=1 seek=1M conv=notrunc 2>/dev/null; stat -c '%s' sparse; truncate -s 10 sparse; stat -c %s sparse
du --apparent-size -b zeros; head -c 5 /dev/zero | base64; echo aGVsbG8= | base64 -d; echo
date -d '2024-02-29 12:00 +1 year' +%F; date -u -d @0 +%FT%T; factor 360 97; expr 6 \* 7; numfmt --to=iec 1048576
env -i A=1 B=2 env; printenv HOME; id -u; id -g; whoami; id nobody; groups | head -n 1; nproc >/dev/null && echo nproc
echo x | tee t1 t2 >/dev/null; cmp t1 t2 && echo same; install -m 700 -o 5 -g 6 t1 t3; stat -c '%a %u %g' t3
join <(printf '1 a\n2 b\n') <(printf '1 x\n2 y\n'); tsort <<<"a b b c"; fold -w 3 <<<"abcdefgh"; fmt -w 10 <<<"one two three four"
test -r d/f -a -w d/f && echo rw; test -x d/f || echo "no x"; [ d/f -nt /etc/hostname ] || echo older
mktemp -d tmp.XXXXXX | tr -d 'A-Za-z0-9.\n' ; echo; mknod node c 1 3 && stat -c '%F %t %T' node
pwd | sed 's,.*/,,'; basename /a/b.c .c; dirname /a/b.c; echo -n "no newline" | wc -c; yes | head -n 3 | md5sum
ls d/broken >/dev/null; cat d/broken 2>/dev/null; echo "broken link $?"; cat missing 2>&1; rm -f missing; echo "rm -f $?"; mkdir d 2>&1
chmod 000 d/f; cat d/f; sync; sync d/f && echo synced; nice -n 5 nice; timeout -s INT 0.1 sleep 5; echo "timeout $?"; nohup echo nohup 2>/dev/null
stdbuf -oL echo buffered; df --output=target /proc | tail -n 1; uname -s -m; tail -n +3 d/lines; (sleep 0.3; echo grown >>log) & : >log; timeout 5 tail -f log | head -n 1; wait
