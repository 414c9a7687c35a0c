# Python 3: threads, subprocess, multiprocessing, mmap, signal, pty, sqlite3, asyncio and more.
cat >t.py <<'END'
import asyncio, concurrent.futures, ctypes, errno, fcntl, hashlib, io, json, mmap, multiprocessing as mp, os, pty, queue, random, resource, select, shutil, signal, socket, sqlite3, struct, subprocess, sys, tempfile, termios, threading, time, tty, zipfile, zlib
def section(name): print("--", name, flush=True)

section("threads")
q, out = queue.Queue(5), []
def worker():
    while (n := q.get()) is not None: out.append(n * n)
ts = [threading.Thread(target=worker) for _ in range(4)]
[t.start() for t in ts]; [q.put(i) for i in range(100)]; [q.put(None) for _ in ts]; [t.join() for t in ts]
print(sum(out), threading.active_count())
e = threading.Event(); threading.Timer(0.05, e.set).start(); print(e.wait(5)); print(threading.Lock().acquire(timeout=0.1))

section("subprocess")
print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", capture_output=True))
p = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE); print(p.communicate(b"x" * 300000)[0].count(b"x"), p.returncode)
try: subprocess.run(["sleep", "10"], timeout=0.2)
except subprocess.TimeoutExpired: print("timeout")
try: subprocess.run(["/no/such"])
except FileNotFoundError as x: print(x.strerror)
print(subprocess.run("kill -9 $$", shell=True).returncode, subprocess.check_output(["env"], env={"A": "1"}))

section("multiprocessing")
def square(x): return x * x
def child(conn, lock, value):
    for _ in range(100):
        with lock: value.value += 1
    conn.send(os.getpid() != mp.parent_process().pid); conn.close()
for method in ["fork", "spawn"]:
    if __name__ == "__main__":
        c = mp.get_context(method)
        with c.Pool(3) as pool: print(method, pool.map(square, range(10)), flush=True)
a, b = mp.Pipe(); lock, value = mp.Lock(), mp.Value("i", 0)
ps = [mp.Process(target=child, args=(b, lock, value)) for _ in range(3)]; [p.start() for p in ps]; [p.join() for p in ps]
print(value.value, a.recv(), [p.exitcode for p in ps])
from multiprocessing import shared_memory
s = shared_memory.SharedMemory(create=True, size=4096); s.buf[:5] = b"share"; s2 = shared_memory.SharedMemory(s.name); print(bytes(s2.buf[:5])); s2.close(); s.close(); s.unlink()
with concurrent.futures.ProcessPoolExecutor(2) as ex: print(list(ex.map(square, [5, 6])))

section("mmap")
d = tempfile.mkdtemp(); path = os.path.join(d, "f")
with open(path, "w+b") as f:
    f.truncate(100000); m = mmap.mmap(f.fileno(), 0); m[50000:50005] = b"hello"; m.flush(); f.seek(50000); print(f.read(5), m.find(b"hello"), len(m)); m.resize(200000); print(len(m), os.stat(path).st_size); m.close()
m = mmap.mmap(-1, 4096); pid = os.fork()
if pid == 0: m[:3] = b"kid"; os._exit(0)
print(os.waitpid(pid, 0)[1], m[:3])

section("signal")
got = []
signal.signal(signal.SIGUSR1, lambda s, f: got.append(s)); os.kill(os.getpid(), signal.SIGUSR1); print(got == [signal.SIGUSR1])
signal.signal(signal.SIGALRM, lambda s, f: (_ for _ in ()).throw(TimeoutError("alarm"))); signal.setitimer(signal.ITIMER_REAL, 0.1)
try: time.sleep(10)
except TimeoutError as x: print(x)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2); print(signal.sigpending() == {signal.SIGUSR2}, signal.sigwait([signal.SIGUSR2]) == signal.SIGUSR2)
r, w = os.pipe(); os.set_blocking(w, False); signal.set_wakeup_fd(w); os.kill(os.getpid(), signal.SIGUSR1); print(os.read(r, 10) == bytes([signal.SIGUSR1])); signal.set_wakeup_fd(-1)
try: os.kill(os.getpid(), 0); os.kill(999999, 0)
except ProcessLookupError: print("no such process")

section("pty")
pid, fd = pty.fork()
if pid == 0: os.execvp("sh", ["sh", "-c", "stty -echo; read x; echo got $x on $(tty | cut -c1-9)"])
time.sleep(0.3); os.write(fd, b"typed\n"); text = b""
while True:
    try: chunk = os.read(fd, 1000)
    except OSError as x: print(errno.errorcode[x.errno]); break
    if not chunk: break
    text += chunk
print(text.split(b"\r\n")[-2], os.waitpid(pid, 0)[1])
m, s = pty.openpty(); tty.setraw(s); os.write(m, b"\x03raw"); print(os.read(s, 10)); fcntl.ioctl(s, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0)); print(os.get_terminal_size(m))

section("sqlite3")
db = sqlite3.connect(os.path.join(d, "db")); db.execute("pragma journal_mode=wal"); db.execute("create table t(id integer primary key, name text, n real)")
with db: db.executemany("insert into t(name, n) values(?, ?)", [(f"name{i}", i / 7) for i in range(5000)])
print(db.execute("select count(*), round(sum(n), 3), max(name) from t where id % 3 = 0").fetchone())
try:
    with db: db.execute("insert into t(id) values(1)")
except sqlite3.IntegrityError as x: print(x)
other = sqlite3.connect(os.path.join(d, "db"), timeout=0.1); db.execute("begin immediate")
try: other.execute("begin immediate")
except sqlite3.OperationalError as x: print(x)
db.rollback(); db.execute("create index i on t(name)"); print(db.execute("select id from t where name = 'name77'").fetchone(), db.execute("pragma integrity_check").fetchone())
def use(n):
    c = sqlite3.connect(os.path.join(d, "db"), timeout=20)
    for i in range(20):
        with c: c.execute("update t set n = n + 1 where id = 1")
ps = [mp.Process(target=use, args=(i,)) for i in range(3)]; [p.start() for p in ps]; [p.join() for p in ps]; print(round(db.execute("select n from t where id = 1").fetchone()[0]))

section("asyncio")
async def serve():
    async def echo(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    server = await asyncio.start_unix_server(echo, os.path.join(d, "sock"))
    async def ask(i):
        r, w = await asyncio.open_unix_connection(os.path.join(d, "sock")); w.write(b"msg %d\n" % i); x = await r.read(); w.close(); return x
    print(await asyncio.gather(*[ask(i) for i in range(5)]))
    p = await asyncio.create_subprocess_exec("sh", "-c", "echo sub; exit 2", stdout=asyncio.subprocess.PIPE); print(await p.stdout.read(), await p.wait())
    try: await asyncio.wait_for(asyncio.sleep(10), 0.1)
    except asyncio.TimeoutError: print("timed out")
    server.close()
asyncio.run(serve())

section("files and sockets")
a, b = socket.socketpair(); socket.send_fds(a, [b"fd"], [os.open("/etc/hostname", os.O_RDONLY)]); msg, fds, *_ = socket.recv_fds(b, 10, 1); print(msg, len(os.read(fds[0], 100)) > 0)
ep = select.epoll(); ep.register(b, select.EPOLLIN); print(ep.poll(0)); a.send(b"x"); print([(e == select.EPOLLIN) for _, e in ep.poll(1)])
f = open(path, "w"); fcntl.lockf(f, fcntl.LOCK_EX); pid = os.fork()
if pid == 0:
    try: fcntl.lockf(open(path, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)
    except BlockingIOError: os._exit(0)
print(os.waitpid(pid, 0)[1]); os.makedirs(os.path.join(d, "x/y/z")); open(os.path.join(d, "x/y/z/f"), "w").write("deep"); shutil.copytree(os.path.join(d, "x"), os.path.join(d, "copy")); print(sorted(os.walk(os.path.join(d, "copy")))[-1][2]); shutil.rmtree(os.path.join(d, "x")); print(sorted(os.listdir(d)))
with os.scandir("/proc/self/fd") as it: print(all(x.name.isdigit() for x in it)); print(os.sched_getaffinity(0) != set(), os.cpu_count() >= 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0)
z = io.BytesIO(); zf = zipfile.ZipFile(z, "w", zipfile.ZIP_DEFLATED); zf.writestr("n", "data" * 1000); zf.close(); print(zipfile.ZipFile(z).testzip(), hashlib.sha256(b"abc").hexdigest()[:16], zlib.crc32(b"abc"), json.dumps({"a": [1, None]}))
libc = ctypes.CDLL(None, use_errno=True); print(libc.getpid() == os.getpid(), libc.close(-1), errno.errorcode[ctypes.get_errno()]); random.seed(1); print(random.randrange(1000000), len(os.urandom(16)), sys.getrefcount(None) > 10)
os.chdir("/"); shutil.rmtree(d); sys.exit(12)
END
sed -i '/^def section/a if __name__ != "__main__": section = print = lambda *a, **k: None' t.py
cat >run.py <<'END'
import runpy, sys
END
python3 - <<'END'
# "spawn" imports the main module again: only definitions may run then.
text = open("t.py").read()
head, body = text.split('\nsection("threads")', 1)
defs = "\ndef square(x): return x * x\n"
body = body.replace("\ndef square(x): return x * x", "", 1)
indented = "\n".join("    " + l if l else l for l in ('section("threads")' + body).split("\n"))
open("t.py", "w").write(head + defs + 'def main():\n' + indented + '\nif __name__ == "__main__": main()\n')
END
python3 t.py; echo "python $?"
python3 -c 'import os; os.abort()' 2>/dev/null; echo "abort $?"; echo 'print(sum(map(int, open(0))))' >s.py; seq 1 1000 | python3 s.py; python3 -m venv --help >/dev/null && echo venv; python3 -m compileall -q s.py && ls __pycache__ | wc -l
