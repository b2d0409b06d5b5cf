-- What the cameras see of people stays in their region; the time from a frame to its guidance is bounded.

CREATE STREAM wishes (
  camera text NOT NULL,
  person text NOT NULL,
  since timestamp NOT NULL,
  WATERMARK FOR since AS since - INTERVAL '10 seconds'
);

-- Detect: who is in a frame, and where. Whoever looks like nobody known is left alone.
CREATE STREAM seen (
  camera text, frame bigint, taken timestamp, person text, x bigint, y bigint,
  WATERMARK FOR taken AS taken - INTERVAL '2 seconds'
) PARTITIONS 2;

CREATE FLOW seen
  KEEP IN REGION 'new-york'  PREFER edge
  DEAD LETTER INTO rejects
AS SELECT camera, frame, taken, nearest AS person, x, y
   FROM recognise(detect(decode(frames))) AS found
        (camera text, frame bigint, taken timestamp, x bigint, y bigint, nearest text, distance double)
   WHERE distance < 0.25;

-- Filter: only whom the camera's owner looks for. A wish lasts six seconds; a phone makes it anew before it ends.
CREATE FLOW sought
  KEEP IN REGION 'new-york'  PREFER edge
AS SELECT s.camera, s.frame, s.taken, s.person, s.x, s.y
   FROM seen AS s JOIN wishes AS w
     ON s.camera = w.camera AND s.person = w.person
    AND s.taken >= w.since AND s.taken < w.since + INTERVAL '6 seconds';

-- Extract and feed back: what is known of the float, and which zone the camera is to look at next.
CREATE FLOW guidance
  WITHIN '150 ms' AT P95
  KEEP IN REGION 'new-york'  PREFER edge
  DEAD LETTER INTO rejects
AS SELECT camera, frame, taken, person, x, y, ride, about, zone_x, zone_y
   FROM guide(once(sought)) AS guided
        (camera text, frame bigint, taken timestamp, person text, x bigint, y bigint,
         ride text, about text, zone_x bigint, zone_y bigint);

-- How often each is seen; only the numbers leave the region.
CREATE FLOW counts
  KEEP IN REGION 'new-york'  PREFER edge
AS SELECT person, window_start, count(*) AS sightings, count(DISTINCT camera) AS cameras
   FROM TUMBLE(seen, taken, INTERVAL '2 seconds')
   GROUP BY person, window_start, window_end;

CREATE FLOW crowd
AS SELECT person, window_start, sightings, cameras FROM counts;
