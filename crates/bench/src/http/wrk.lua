-- Prints what wrk measured on one line, for the harness: requests, duration in microseconds, quantiles of the latency in
-- microseconds, errors of the connection and answers that were none of 2xx and 3xx.
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
