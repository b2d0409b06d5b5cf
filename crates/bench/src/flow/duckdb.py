"""Answers with what DuckDB takes for the queries of bench-flow, on one thread, over a table in memory: `duckdb.py ROWS KEYS`.

Prints its version, then, for each name of a query that it is given as a line: the seconds, and the figures that show whether it came to the
same result.
"""

import sys
import time

import duckdb

# The same rows as `rows` in mod.rs makes.
TABLE = """
CREATE TABLE readings AS SELECT
  (i * 611953) % {keys} AS machine,
  make_timestamp(1699999980000000 + i * 60000000 * 2 // {rows}) AS ts,
  ((i * 7919) % 10007) / 100.0::DOUBLE AS temperature
FROM range({rows}) AS numbers(i)
"""
# The same as `thresholds` in query.rs makes.
THRESHOLDS = """
CREATE TABLE thresholds AS SELECT
  machine,
  make_timestamp(1699999980000000 + version * 60000000) AS ts,
  ((machine * 31 + version * 17) % 1009) / 10.0::DOUBLE AS threshold
FROM range(2) AS versions(version), range(100000) AS machines(machine)
"""
# What is asked, and what is told of the result.
QUERIES = {
    "filter": (
        "SELECT machine, ts, temperature * 1.8 + 32.0 AS fahrenheit FROM readings WHERE temperature > 60.0 AND machine % 10 < 5",
        "SELECT count(*), sum(fahrenheit) FROM result",
    ),
    "window": (
        "SELECT machine, date_trunc('minute', ts) AS minute, count(*) AS n, avg(temperature) AS mean, max(temperature) AS highest"
        " FROM readings GROUP BY machine, minute",
        "SELECT count(*), sum(highest) FROM result",
    ),
    "join": (
        "SELECT readings.machine, readings.ts, temperature - threshold AS excess"
        " FROM readings ASOF JOIN thresholds ON readings.machine % 100000 = thresholds.machine AND readings.ts >= thresholds.ts",
        "SELECT count(*), sum(excess) FROM result",
    ),
}

rows, keys = (int(argument) for argument in sys.argv[1:])
connection = duckdb.connect(config={"threads": 1})
connection.execute(TABLE.format(rows=rows, keys=keys))
connection.execute(THRESHOLDS)
print(duckdb.__version__, flush=True)
for line in sys.stdin:
    query, figures = QUERIES[line.strip()]
    begun = time.perf_counter()
    connection.execute("CREATE OR REPLACE TEMP TABLE result AS " + query)
    seconds = time.perf_counter() - begun
    print(seconds, *connection.execute(figures).fetchone(), flush=True)
