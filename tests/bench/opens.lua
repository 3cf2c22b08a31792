-- Reports one open again and again. With BENCH_RUN (8 hex digits), every request comes from another
-- install at another address, and no other run's installs are among them; with BENCH_POOL, so many installs
-- take turns, the same ones for the same BENCH_RUN. BENCH_SKIP says how many installs, and addresses, to leave
-- out at first. Headers come with wrk's -H.
local body, run, pool = os.getenv("BENCH_BODY"), os.getenv("BENCH_RUN"), tonumber(os.getenv("BENCH_POOL"))
local skip = tonumber(os.getenv("BENCH_SKIP")) or 0

wrk.method = "POST"
wrk.body = body

if run then
  local before, after = body:match("^(.-)INSTALL(.*)$")
  local count = skip
  local function another()
    wrk.headers["X-Forwarded-For"] = string.format(
      "198.%d.%d.%d", 18 + math.floor(count / 65536) % 2, math.floor(count / 256) % 256, count % 256)
    return wrk.format(nil, nil, nil, before .. string.format("%s-0000-4000-8000-%012x", run, count) .. after)
  end
  local made = {}
  request = function()
    count = count + 1
    if not pool then return another() end
    count = count % pool
    made[count] = made[count] or another()
    return made[count]
  end
end

done = function(summary, latency)
  local errors = summary.errors
  io.write("BENCH ", string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
