-- What one call of the queue knows. `held.lua`, `drain.lua`, `recall.lua`, `pace.lua`, `waiting.lua` and `queue.lua` go on
-- from here: they are one script.
--
-- KEYS: held (hash: id -> worker '|' since when, ms '|' band '|' tenant), line (sorted set: id -> band * 2^50 + tag),
-- entries (hash: id -> what is known of it), tenants (hash: 'f'|'p'|'d'|'w' band '|' tenant -> finish tag, promised tag,
-- differences that moved nothing yet, tokens that wait), state (hash: 't<band>' virtual time, 'drain' the measures,
-- 'bytes', 'secret', 'l<worker>' how many slots it would have), workers (sorted set: worker -> last beat), seen (sorted set: tenant -> when it asked last), gives
-- (hash: id of a slot whose answer can be broken off -> when it was granted, ms '|' whom it is asked back for, or nothing).
-- ARGV: operation, now_ms (0 = this server's clock), limit, mailboxes' prefix, headroom, then the operation's own.
-- A worker's mailbox is a list: 'g' id = has a slot, 'd' id = its place was taken by somebody with a better right, 'r' id =
-- its slot is asked back.

local HELD, LINE, ENTRIES, TENANTS, STATE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local WORKERS, SEEN, GIVES = KEYS[6], KEYS[7], KEYS[8]
local operation, now, limit, mailboxes, headroom = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local STEP = 1125899906842624
local DEAD_MS, MAILBOX_MS, IDLE_MS = 2000, 30000, 86400000
local MAX_TENANTS = 100000
local RECENT_MS, OVER, LIGHT, LOOK_AHEAD = 30000, 1.25, 2, 32

if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function whole(number) return string.format('%.0f', number) end

local function number_at(key, field, otherwise)
  return tonumber(redis.call('HGET', key, field) or otherwise)
end

local function num_waiting() return redis.call('ZCARD', LINE) end

local function mail(worker, message)
  local box = mailboxes .. worker
  redis.call('RPUSH', box, message)
  redis.call('PEXPIRE', box, MAILBOX_MS)
end

local function is_alive(worker)
  local beat = redis.call('ZSCORE', WORKERS, worker)
  return beat and tonumber(beat) >= now - DEAD_MS
end

local function hash_of(key)
  local all, flat = {}, redis.call('HGETALL', key)
  for at = 1, #flat, 2 do all[flat[at]] = flat[at + 1] end
  return all
end

local function entry_of(id)
  local raw = redis.call('HGET', ENTRIES, id)
  return raw and cjson.decode(raw)
end
