"""Answers queries over one table with SQLite: `{rows, queries}` on standard input, `{version, results}` on standard output."""

import json
import math
import sqlite3
import sys

asked = json.load(sys.stdin)
connection = sqlite3.connect(":memory:")
connection.execute("PRAGMA case_sensitive_like = ON")
connection.execute("CREATE TABLE s (id INTEGER, a INTEGER, b INTEGER, x REAL, y REAL, t TEXT, u TEXT, ts INTEGER)")
for row in asked["rows"]:
    connection.execute("INSERT INTO s VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
results = []
for query in asked["queries"]:
    try:
        rows = connection.execute(query).fetchall()
        # JSON has no infinity; what it stands for is an error on the other side.
        results.append({"rows": [[str(v) if v in (math.inf, -math.inf) else v for v in row] for row in rows]})
    except sqlite3.Error as error:
        results.append({"error": str(error)})
json.dump({"version": sqlite3.sqlite_version, "results": results}, sys.stdout)
