-- Sends requests signed beforehand, from a file of records of one length, each once; then it stops.
-- wrk ... -s wrk.lua URL -- FILE LENGTH

function init(args)
  file = assert(io.open(args[1], "rb"))
  length = tonumber(args[2])
end

function request()
  local record = file:read(length)
  if record == nil or #record < length then
    wrk.thread:stop()
    return last
  end
  last = record
  return record
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
