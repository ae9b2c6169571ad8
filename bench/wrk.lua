-- Cycles through the request bodies named on the command line after "--", and prints the result as one JSON line.
local requests = {}
local next_request = 0

function init(args)
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  for _, path in ipairs(args) do
    if path == "stream" then
      wrk.headers["x-bench-stream"] = "1"
    else
      local file = assert(io.open(path, "rb"))
      requests[#requests + 1] = file:read("*a")
      file:close()
    end
  end
  for i, body in ipairs(requests) do
    requests[i] = wrk.format(nil, "/v1/chat/completions", nil, body)
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function done(summary, latency, _)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"bytes":%d,"bad_status":%d,"failed":%d,"timeouts":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, summary.errors.status, failed,
    summary.errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
