# find and xargs over a tree with sizes, times, permissions and odd names.
set -u
mkdir -p tree/{a,b,c}/{1,2} && cd tree
for i in $(seq 1 30); do head -c $((i * 100)) /dev/zero >"a/1/f$i"; done
touch 'b/1/with space' $'b/1/with\nnewline' b/2/-dash; chmod 755 b/1/'with space'; ln -s ../a c/link; touch -d 2001-01-01 c/old
find . -type d | sort; find . -type f | wc -l; find . -type l -printf '%p -> %l\n'
find a -size +2k -name 'f2*' | sort; find . -perm -111 -type f; find . -newer c/old -name '*dash'; find . -mtime +1000
find . -name 'with*' -print0 | sort -z | tr '\0' '|'; echo
find . -maxdepth 1 -mindepth 1 -printf '%f %y %m\n' | sort; find . -path ./a -prune -o -type f -print0 | sort -z | xargs -0 -n1 printf '<%s>'; echo
find a/1 -name 'f1?' -exec wc -c {} + | tail -n 1; find a/1 -name 'f1?' -delete; find a/1 -type f | wc -l; find -L c -name 'f3' ; find . -empty | sort | head -n 4
find a/1 -type f -print | sort | xargs -n 4 echo | head -n 2; seq 1 50 | xargs -P 4 -n 1 sh -c 'echo $(($0 * 2))' | sort -n | tail -n 2
printf 'a b\nc\n' | xargs -I{} echo "[{}]"; false | xargs -r echo never; echo 1 | xargs sh -c 'exit 3'; echo "xargs $?"; xargs --show-limits </dev/null 2>&1 | grep -c POSIX
find / -xdev -maxdepth 2 -name passwd 2>/dev/null; find . -inum "$(stat -c %i c/old)"; find missing 2>&1; echo "find $?"
