-- Fires requests that were signed beforehand: a file of records of one length, each sent once.
-- wrk ... -s wrk.lua URL -- FILE LENGTH

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  file = assert(io.open(args[1], "rb"))
  length = tonumber(args[2])
  exhausted = 0
end

function request()
  local record = file:read(length)
  if record == nil or #record < length then
    exhausted = 1
    wrk.thread:stop()
    return last
  end
  last = record
  return record
end

function done(summary, latency, requests)
  local ran_out = 0
  for _, thread in ipairs(threads) do
    ran_out = ran_out + thread:get("exhausted")
  end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d, "ran_out": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, ran_out))
end
