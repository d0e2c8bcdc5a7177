-- What one call of the queue knows, and the measures of drain.py. `recall.lua`, `pace.lua` and `queue.lua` go on from
-- here: the four are one script.
--
-- KEYS: held (hash: id -> worker '|' since when, ms '|' band '|' tenant), line (sorted set: id -> band * 2^50 + tag),
-- entries (hash: id -> what is known of it), tenants (hash: 'f'|'p'|'d'|'w' band '|' tenant -> finish tag, promised tag,
-- differences that moved nothing yet, tokens that wait), state (hash: 't<band>' virtual time, 'drain' the measures,
-- 'bytes', 'secret'), workers (sorted set: worker -> last beat), seen (sorted set: tenant -> when it asked last), gives.
-- line ':' band '|' tenant is the set of a tenant's waiters.
-- ARGV: operation, now_ms (0 = this server's clock), limit, mailboxes' prefix, headroom, then the operation's own.
-- A worker's mailbox is a list: 'g' id = has a slot, 'd' id = its place was taken by somebody with a better right, 'r' id =
-- its slot is asked back.

local HELD, LINE, ENTRIES, TENANTS, STATE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local WORKERS, SEEN = KEYS[6], KEYS[7]
local operation, now, limit, mailboxes, headroom = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local STEP = 1125899906842624
local DEAD_MS, MAILBOX_MS, IDLE_MS = 2000, 30000, 86400000
local MAX_TENANTS = 100000
local NEWEST_SHARE, MEMORY_MS, MAX_TAKEN = 0.05, 10000, 0.9
local LEAST_MOVE, MOVE_OF_BACKLOG = 64, 1 / 64
local FEW_ROUNDS = 0.5
local RECENT_MS, OVER, LIGHT, LOOK_AHEAD = 30000, 1.25, 2, 32

if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function whole(number) return string.format('%.0f', number) end

local function number_at(key, field, otherwise)
  return tonumber(redis.call('HGET', key, field) or otherwise)
end

local function num_held() return redis.call('HLEN', HELD) end
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

-- The measures of drain.py; lists begin with band 0.
local drain
local function measured()
  if not drain then
    local raw = redis.call('HGET', STATE, 'drain')
    drain = raw and cjson.decode(raw)
      or {hold = -1, holds = 0, by_band = {-1, -1, -1}, counts = {0, 0, 0}, spread = 0, busy = {0, 0, 0}, at = 0}
    drain.full, drain.light = drain.full or {0, 0, 0}, drain.light or {0, 0, 0} -- an older worker did not know of them
  end
  return drain
end

local function moved(mean, newest, count)
  if mean < 0 then return newest end
  return mean + math.max(NEWEST_SHARE, 1 / count) * (newest - mean)
end

local function fade() return math.exp(0 - math.max(0, now - measured().at) / MEMORY_MS) end

local function mean_of(band)
  local own = measured().by_band[band + 1]
  return own >= 0 and own or measured().hold
end

-- A slot came free after held_ms. is_line: somebody of its band waits. is_light: nobody of its tenant does. `save`
-- keeps it.
local function note(band, held_ms, is_line, is_light)
  local d, fading = measured(), fade()
  d.holds = d.holds + 1
  d.counts[band + 1] = d.counts[band + 1] + 1
  d.hold = moved(d.hold, held_ms, d.holds)
  local mean = d.by_band[band + 1]
  if mean > 0 then
    local off = math.min(1, ((held_ms - mean) / mean) ^ 2)
    d.spread = d.spread + NEWEST_SHARE * (off - d.spread)
  end
  d.by_band[band + 1] = moved(mean, held_ms, d.counts[band + 1])
  for at = 1, 3 do
    d.busy[at], d.full[at], d.light[at] = d.busy[at] * fading, d.full[at] * fading, d.light[at] * fading
  end
  d.busy[band + 1] = d.busy[band + 1] + held_ms
  if is_line then d.full[band + 1] = d.full[band + 1] + held_ms end
  if is_line and is_light then d.light[band + 1] = d.light[band + 1] + held_ms end
  d.at = now
end

local function save() if drain then redis.call('HSET', STATE, 'drain', cjson.encode(drain)) end end

-- Milliseconds until each taken slot should come free, soonest first, and what its hold is in the mean. Changes with
-- every grant; one call works it out once for all that it looks at.
local function slots_left()
  local left, typical = {}, 0
  for _, holder in ipairs(redis.call('HVALS', HELD)) do
    local since, band = string.match(holder, '^.-|(%d+)|(%d)|')
    local mean = mean_of(tonumber(band))
    left[#left + 1] = math.max(0, mean - (now - tonumber(since)))
    typical = typical + mean
  end
  table.sort(left)
  if #left == 0 then return {0}, measured().hold end
  return left, typical / #left
end

-- How many of those in line are of each band.
local function by_band()
  local counts = {}
  for band = 0, 2 do
    counts[band + 1] = redis.call('ZCOUNT', LINE, whole(band * STEP), '(' .. whole((band + 1) * STEP))
  end
  return counts
end

-- The wait behind so many, for one of this band, as drain.py says it: least, ahead, slower, lighter.
local function forecast(num_ahead, band, counts, left, typical)
  if measured().hold < 0 then return -1, -1, 1, 1 end
  local work, rest_ahead, slots, taken = 0, num_ahead, math.max(limit, 1), 0
  for each = 0, band do
    local number = math.min(rest_ahead, each < band and counts[each + 1] or rest_ahead)
    work, rest_ahead = work + number * mean_of(each), rest_ahead - number
    if each < band then taken = taken + measured().busy[each + 1] end
  end
  local rounds, at = math.floor(num_ahead / #left), num_ahead % #left
  local by_slot = left[at + 1] + rounds * (num_ahead > 0 and work / num_ahead or typical)
  local differ = math.min(1, math.sqrt(measured().spread))
  taken = math.min(MAX_TAKEN, taken * fade() / (MEMORY_MS * slots))
  local light = measured().light[band + 1]
    / math.max(1, measured().full[band + 1] + FEW_ROUNDS * slots * measured().hold)
  return (1 - differ) * by_slot + differ * (work + typical) / slots,
    (1 - differ) * work / #left + differ * work / slots,
    1 / (1 - taken),
    1 / (1 - math.min(MAX_TAKEN, light))
end
