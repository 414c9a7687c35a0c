# An interactive shell on a terminal inside: driven by script(1) and by tmux.
set -u
script -qec 'stty size >/dev/null; tty | sed "s,[0-9]*$,N,"; test -t 0 && echo "is a terminal"; exit 5' /dev/null | tr -d '\r'; echo "script ${PIPESTATUS[0]}"
printf 'echo typed $((40 + 2))\nexit 3\n' | script -qec 'PS1= bash --norc --noediting' /dev/null | tr -d '\r' | grep -x 'typed 42'
export TERM=xterm LC_ALL=C.UTF-8
T="tmux -L test -f /dev/null"
screen() { $T capture-pane -p -t main; }
await() { for i in $(seq 1 300); do screen | grep -qx -- "$1" && { echo "seen: $1"; return; }; sleep 0.05; done; echo "never seen: $1"; screen; }
# Waits until the shell waits: what is typed before that may be flushed with the ^C.
prompt() { for i in $(seq 1 300); do [ "$(screen | grep . | tail -n 1)" = 'prompt$' ] && return; sleep 0.05; done; echo "no prompt"; screen; }
$T new-session -d -s main -x 90 -y 20 'PS1="prompt\$ " bash --norc'
prompt
$T send-keys -t main 'echo size $(stty size)' Enter; await 'size 20 90'; prompt
# What is typed while the shell still edits lines arrives without a newline: only what follows "now" is for sed.
$T send-keys -t main 'echo now; sed -u s/^/sed:/' Enter; await now; $T send-keys -t main typed Enter; await 'sed:typed'
$T send-keys -t main C-c; prompt; $T send-keys -t main 'echo status $?' Enter; await 'status 130'
$T send-keys -t main 'sh -c "echo running; exec sleep 500"' Enter; await running; $T send-keys -t main C-z; await '\[1\]+  Stopped .*'; prompt
$T send-keys -t main 'bg' Enter; await '\[1\]+ .* &'; prompt
$T send-keys -t main 'kill %1; wait %1; echo killed $?' Enter; await 'killed 143'; prompt
$T send-keys -t main 'junk' C-u 'echo edited' Left Left Left Left Left Left 'x' Enter; await 'xedited'
$T send-keys -t main 'trap "echo resized" WINCH' Enter; prompt; $T resize-window -t main -x 70 -y 15; $T send-keys -t main '' Enter; await '.*resized'
$T send-keys -t main 'exit' Enter; for i in $(seq 1 100); do $T has-session -t main 2>/dev/null || break; sleep 0.05; done; $T has-session -t main 2>/dev/null || echo "session ended"
