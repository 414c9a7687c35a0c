"""300 transactions of sqlite on a tmpfs; prints how long they took, and what the table holds then."""

import os
import sqlite3
import time

PATH = "/tmp/transactions.db"

if os.path.exists(PATH):
    os.unlink(PATH)
db = sqlite3.connect(PATH, isolation_level=None)
db.execute("create table t (i integer primary key, text text)")
begin = time.perf_counter_ns()
for i in range(300):
    db.execute("begin")
    db.execute("insert into t values (?, ?)", (i, "x" * 100))
    db.execute("commit")
took = time.perf_counter_ns() - begin
print(db.execute("select count(*), sum(i), sum(length(text)) from t").fetchone())
print("ns", took)
db.close()
os.unlink(PATH)
