# ps, top, kill, pgrep, free: what they show of processes that are known.
set -u
sleep 1000 & one=$!
(exec -a renamed sleep 1001) & two=$!
until [ "$(cat /proc/$one/comm) $(tr '\0' ' ' </proc/$two/cmdline)" = "sleep renamed 1001 " ]; do sleep 0.01; done
ps aux | head -n 1; ps aux | awk '$11 == "sleep" || $11 == "renamed" { print $1, NF, $8, $11, $12 }'
ps -o comm,args,stat,nice,user --no-headers -p $one,$two; ps -eo comm= >all; sort -u all | grep -vx ps; ps --ppid $$ -o args= >mine; sort mine | grep -v '^ps '; [ "$(ps -o ppid= -p $one | tr -d ' ')" = $$ ] && echo "parent ok"
top -bn1 | sed -n '7p' | tr -s ' '; top -bn1 | awk 'NR == 1 { print $1, $2 } NR == 2 { print $1, $3, $5, $7, $9, $11 } $12 == "sleep" { n++ } END { print n }'; top -bn1 -p $one | tail -n 1 | awk '{ print $2, $8, $12 }'
pgrep -c sleep; [ "$(pgrep -x sleep -n)" = $two ] && echo newest; pgrep -f renamed | grep -qx $two && echo found; pidwait -V >/dev/null && echo pidwait
kill -STOP $one; until ps -o stat= -p $one | grep -q T; do sleep 0.01; done; ps -o stat= -p $one; kill -CONT $one
kill $one; wait $one; echo "status $?"; pkill -KILL -f renamed; wait $two; echo "status $?"; kill -0 $one 2>/dev/null || echo gone; kill -l 15; /bin/kill -l TERM
renice -n 7 -p $$ >/dev/null; ps -o ni= -p $$ | tr -d ' '; free | awk '{ print $1 }' | paste -sd' '; free -b | awk '/Mem/ { print ($2 > 0), ($3 > 0), ($7 <= $2) }'
uptime -p | cut -c1-2; uptime | grep -c 'load average'; cat /proc/loadavg | wc -w; vmstat | awk 'NR == 3 { print NF }'; pmap $$ | tail -n 1 | awk '{ print $1 }'; w -h | wc -l; sysctl -n kernel.ostype
ps -eLo comm= | wc -l | awk '{ print ($1 >= 3) }'; ps -p 99999 >/dev/null; echo "ps $?"
