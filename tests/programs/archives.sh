# tar, gzip and xz: round trips, permissions, links, sparse files, pipes.
set -u
export TZ=UTC
mkdir -p src/sub && seq 1 20000 >src/numbers && ln -s numbers src/link && ln src/numbers src/hard && mkfifo src/pipe
printf 'x' >src/sub/small && chmod 4755 src/sub/small && chown 123:456 src/sub/small && truncate -s 1M src/holes
find src -print0 | xargs -0 touch -h -d '2021-03-04 05:06:07'
tar --sort=name -cf a.tar src && tar -tvf a.tar && sha256sum <a.tar
mkdir out && tar -xpf a.tar -C out && diff -r --no-dereference src/sub out/src/sub && find out ! -type d -printf '%P %m %U:%G %s %T+\n' | sort && find out -mindepth 1 -type d -printf '%P %m %U:%G %T+\n' | sort
[ out/src/hard -ef out/src/numbers ] && echo "hard link kept"
gzip -9nk a.tar && gzip -l a.tar.gz | awk 'NR==2 { print $2 }' && gzip -t a.tar.gz && zcat a.tar.gz | cmp - a.tar && echo "gzip ok"
xz -k -T2 a.tar && xz -t a.tar.xz && xzcat a.tar.xz | cmp - a.tar && echo "xz ok"
tar -czf - src | tar -tzf - | wc -l; tar -cJf b.tar.xz src/sub && tar -xJOf b.tar.xz src/sub/small; echo
tar -cSf sparse.tar src/holes && [ "$(stat -c %s sparse.tar)" -lt 20000 ] && echo "holes kept out"
tar -rf a.tar -C src sub/small && tar -tf a.tar | tail -n 1; tar --delete -f a.tar sub/small && tar -tf a.tar | wc -l
tar -xf missing.tar 2>/dev/null; echo "tar $?"; echo junk | gzip -d 2>&1 | head -n 1; head -c 3000000 /dev/zero | gzip -n | gzip -d | md5sum; gzip -n <src/numbers | md5sum
tar -cf - -C / usr/share/perl5 2>/dev/null | tar -xf - -C out && diff -r /usr/share/perl5 out/usr/share/perl5 && echo "big tree ok"
