"""What runs inside Redis: each is one step there, so that several processes cannot come between each other.

Of each subject there are two keys. The window is a hash of `requests` and `tokens` that expires with the minute. The
leases are a sorted set of the runs that go on, by the time at which each is given up for lost: processes renew those of
their own, and what a dead one held comes free by itself. Times are those of Redis, in milliseconds.
"""

from __future__ import annotations

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

ADMIT = f"""{_NOW}
local window, ttl, id = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local answer = {{1}}
for i = 1, #KEYS / 2 do
  local counts = redis.call('HMGET', KEYS[2 * i - 1], 'requests', 'tokens')
  local requests, tokens = tonumber(counts[1] or 0), tonumber(counts[2] or 0)
  local reset = redis.call('PTTL', KEYS[2 * i - 1])
  local runs = 0
  local bounds = {{tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])}}
  if bounds[3] > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2 * i], '-inf', now)
    runs = redis.call('ZCARD', KEYS[2 * i])
  end
  if (bounds[1] > 0 and requests >= bounds[1]) or (bounds[2] > 0 and tokens >= bounds[2])
      or (bounds[3] > 0 and runs >= bounds[3]) then
    answer[1] = 0
  end
  if reset < 0 then reset = window end
  for _, value in ipairs({{requests, tokens, runs, reset}}) do table.insert(answer, value) end
end
if answer[1] == 1 then
  for i = 1, #KEYS / 2 do
    redis.call('HINCRBY', KEYS[2 * i - 1], 'requests', 1)
    if redis.call('PTTL', KEYS[2 * i - 1]) < 0 then redis.call('PEXPIRE', KEYS[2 * i - 1], window) end
    if tonumber(ARGV[3 * i + 3]) > 0 then
      redis.call('ZADD', KEYS[2 * i], now + ttl, id)
      redis.call('PEXPIRE', KEYS[2 * i], ttl)
    end
  end
end
return answer
"""
"""Counts a request against all subjects, or none.

Keys: window and leases of each subject. Arguments: length of a window, of a lease, the run's id; then the three bounds
of each subject. Returns whether it was counted; then of each subject, from before: requests, tokens, runs, and the
window's rest.
"""

END = """
local window, id, tokens = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
for i = 1, #KEYS / 2 do
  redis.call('ZREM', KEYS[2 * i], id)
  if tokens > 0 then
    redis.call('HINCRBY', KEYS[2 * i - 1], 'tokens', tokens)
    if redis.call('PTTL', KEYS[2 * i - 1]) < 0 then redis.call('PEXPIRE', KEYS[2 * i - 1], window) end
  end
end
"""
"""Counts the tokens of a run that ended, and gives its leases back.

Keys: window and leases of each subject. Arguments: length of a window, the run's id, the tokens.
"""

RENEW = f"""{_NOW}
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
"""Renews leases, or takes them again if Redis forgot them.

Keys: the leases of a subject. Arguments: length of a lease, the runs' ids.
"""
