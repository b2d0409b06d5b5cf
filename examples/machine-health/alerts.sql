-- Each reading goes through `clean` and `score`, components of this app, in the hall. Only what is out of the ordinary goes on to the cloud.
CREATE FLOW alerts
  WITHIN '500 ms' AT P95
  PORT scored INTO scores          -- every reading with its score stays in the hall
  DEAD LETTER INTO rejects         -- what could not be read, and why
AS SELECT sensor, seq, time, value, round(score, 2) AS score, reason, published
   FROM score(clean(readings)) AS judged
        (sensor text, seq bigint, time timestamp, value double, score double, reason text, published timestamp);
