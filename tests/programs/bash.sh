# Bash: pipelines, traps, here-documents, background jobs, redirections, process substitution.
set -u
echo "one two three" | tr ' ' '\n' | sort -r | head -n 2
false | true; echo "pipe status ${PIPESTATUS[*]}"
set -o pipefail; false | true; echo "pipefail $?"; set +o pipefail

cat <<-END | sed 's/^/> /'
	here-document with $((6 * 7)) and $(echo command)
	second line
END
cat <<'END'
no $expansion `here`
END
read -r a b <<<"here string"; echo "$b $a"

trap 'echo "caught USR1"' USR1
kill -USR1 $$
trap 'echo "leaving with $?"' EXIT
(trap 'echo "subshell term"; exit 9' TERM; while :; do sleep 0.01; done) & pid=$!
sleep 0.2; kill -TERM $pid; wait $pid; echo "wait says $?"

sleep 100 & pid=$!; sleep 0.2; kill $pid; wait $pid 2>/dev/null; echo "killed job $?"
for i in 1 2 3; do (sleep 0.$((i * 3)); exit $i) & done
sum=0; for i in 1 2 3; do wait -n; sum=$((sum + $?)); done; echo "sum of statuses $sum"
(sleep 0.1; echo late) & echo early; wait; echo "all done $(jobs | wc -l)"

diff <(printf 'a\nb\n') <(printf 'a\nc\n'); echo "diff $?"
exec 5>out.txt; echo "to five" >&5; exec 5>&-; cat out.txt
{ echo out; echo err >&2; } 2>&1 >/dev/null | sed 's/^/stderr: /'
echo appended >>out.txt; wc -l <out.txt
exec 6<out.txt; read -r line <&6; echo "$line"; read -r line <&6; echo "$line"; exec 6<&-
: >noclobber; set -C; (echo x >noclobber) 2>/dev/null || echo "noclobber holds"; set +C
mkfifo fifo; (echo "through the fifo" >fifo) & cat fifo; wait

declare -A map=([x]=1 [y]=2); for k in x y; do echo -n "$k=${map[$k]} "; done; echo
array=(a "b c" d); echo "${#array[@]} ${array[1]} ${array[@]:1:2}"
s=hello.tar.gz; echo "${s%%.*} ${s##*.} ${s/l/L} ${s^^} ${#s}"
f() { local x=$1; [ "$x" -le 1 ] && echo 1 || echo $((x * $(f $((x - 1))))); }; f 8
for ((i = 0; i < 3; i++)); do printf '%03d ' $i; done; echo
case "file.c" in *.h) echo header ;; *.c) echo source ;; esac
[[ abc123 =~ ^([a-z]+)([0-9]+)$ ]] && echo "${BASH_REMATCH[2]} ${BASH_REMATCH[1]}"
printf '%s\n' {a,b}{1..3} | paste -sd' '
coproc cat; echo "to the coprocess" >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
eval "exec ${COPROC[1]}>&-"; wait "$COPROC_PID" 2>/dev/null
command_not_there 2>/dev/null; echo "not found $?"
/etc/passwd 2>/dev/null; echo "not executable $?"
bash -c 'kill -SEGV $$' 2>/dev/null; echo "segv $?"
bash -c 'exit 300'; echo "exit 300 is $?"
timeout 0.2 sleep 10; echo "timeout $?"
ulimit -n 64; ulimit -n
umask 027; touch masked; stat -c %a masked
cd /; pwd; cd - >/dev/null; (cd /usr/bin && pwd); echo "$SHLVL ${BASH_SUBSHELL}"
exit 17
