# grep, sed, awk (gawk) and diff.
set -u
cat >data <<'END'
alice 30 london
bob 25 paris
carol 35 london
dave 40 berlin
END
grep -n london data; grep -vc london data; grep -oE '[0-9]+' data | paste -sd,; grep -E '^(a|b)' data; grep -q nobody data || echo none; grep -P '\d{2}(?= b)' data
mkdir g && cp data g/one && echo "x london" >g/two && grep -rl london g | sort; grep -c . /dev/null; grep x missing 2>&1; echo "grep $?"; printf 'bin\0ary\n' | grep -c ary
sed -n '2,3p' data; sed 's/london/LONDON/;s/\([a-z]*\) \([0-9]*\)/\2 \1/' data; sed -E '/bob/d;$a\end' data; sed -i.bak 's/paris/rome/' data; diff data data.bak; sed = data | sed 'N;s/\n/:/' | head -n 1; sed '1!G;h;$!d' data
awk '{ n[$3] += $2; c[$3]++ } END { for (k in n) print k, n[k] / c[k] }' data | sort; awk -v x=3 'BEGIN { for (i = 0; i < x; i++) printf "%d ", i ^ 2; print "" }'
awk 'BEGIN { "echo from a pipe" | getline l; print l; print "sorted" | "sort"; close("sort"); print length("hello"), substr("hello", 2, 3), toupper("x"); printf "%.3f %05d %s\n", 3.14159, 42, "s" }'
gawk 'BEGIN { n = split("c a b", x); asort(x); for (i = 1; i <= n; i++) printf "%s ", x[i]; print gensub(/a+/, "<&>", "g", "baab"); print strftime("%Y", 0, 1) }'
gawk 'BEGIN { c = "cat"; print "two way" |& c; close(c, "to"); c |& getline l; print l; system("exit 3"); print PROCINFO["version"] != "" }'
seq 1 1000 >a; sed 's/^500$/five hundred/;700d' a >b; diff -u a b | tail -n +3; diff -q a b; echo "diff $?"; diff3 a b a | head -n 3; sdiff -s a b; cmp a b; diff -r g g && echo identical
seq 1 200000 | awk '{ s += $1 } END { print s }'; seq 1 100000 | grep -c 7; seq 1 50000 | sed 's/9/x/g' | md5sum
