-- A tenant's remembered answers, bounded by number and by bytes. All keys of one tenant are on one node.
-- KEYS: index (digest by the time it was made), sizes (bytes by digest, and their `total`), ends (digest by when it
-- runs out). An answer itself is at `<index>:<digest>`. ARGV: `put` or `drop`, then what that takes.
--
-- Redis ends answers by itself, when their time is over or memory runs out. Those that ran out are taken off the books
-- at the next put; those that had to go for want of memory are the ones not looked at for longest, and are off the
-- books at the latest when their turn as the oldest comes. So a tenant may hold less than it is billed for, not more.
local index, sizes, ends = KEYS[1], KEYS[2], KEYS[3]
local AT_ONCE = 100 -- of those that ran out, so that no call takes long

local function off_the_books(digest)
  redis.call('ZREM', index, digest)
  redis.call('ZREM', ends, digest)
  local size = redis.call('HGET', sizes, digest)
  if size then
    redis.call('HDEL', sizes, digest)
    redis.call('HINCRBY', sizes, 'total', -size)
  end
end

local function drop(digest)
  off_the_books(digest)
  return redis.call('UNLINK', index .. ':' .. digest)
end

local function live_longer(name, seconds)
  if redis.call('TTL', name) < seconds then
    redis.call('EXPIRE', name, seconds)
  end
end

if ARGV[1] == 'drop' then
  local gone = 0
  for number = 2, #ARGV do
    gone = gone + drop(ARGV[number])
  end
  return gone
end

local digest, data, size = ARGV[2], ARGV[3], tonumber(ARGV[4])
local now, made, ttl, ends_at = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local max_entries, max_bytes = tonumber(ARGV[9]), tonumber(ARGV[10])

-- First of all: a full Redis refuses a script's first write, but none after it.
redis.call('SET', index .. ':' .. digest, data, 'EX', ttl)
off_the_books(digest)
for _, over in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
  drop(over)
end
redis.call('ZADD', index, made, digest)
redis.call('ZADD', ends, ends_at, digest)
redis.call('HSET', sizes, digest, size)
local total = redis.call('HINCRBY', sizes, 'total', size)
for _, name in ipairs(KEYS) do
  live_longer(name, 2 * ttl)
end

local num_gone = 0
while redis.call('ZCARD', index) > max_entries or total > max_bytes do
  local oldest = redis.call('ZRANGE', index, 0, 0)[1]
  if not oldest then
    redis.call('HSET', sizes, 'total', 0)
    break
  end
  drop(oldest)
  num_gone = num_gone + 1
  total = tonumber(redis.call('HGET', sizes, 'total'))
end
return num_gone
