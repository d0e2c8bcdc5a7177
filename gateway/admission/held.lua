-- The slots that are taken, and what is counted of them, so that no request walks through them all. Stands between
-- `call.lua` and `drain.lua`.
--
-- Beside `held`: held ':since:' band (sorted set: id -> since when, ms); held ':by' (hash: worker -> number); held ':of:' band
-- (sorted set: tenant -> number); held ':asked' (set: the slots that are asked back).

local BY, ASKED = HELD .. ':by', HELD .. ':asked'

local function num_held() return redis.call('HLEN', HELD) end

local function since_key(band) return HELD .. ':since:' .. band end

local function slot_of(value)
  local worker, since, band, tenant = string.match(value, '^(.-)|(%d+)|(%d)|(.*)$')
  return {worker = worker, since = tonumber(since), band = tonumber(band), tenant = tenant}
end

local function holders_key(band) return HELD .. ':of:' .. band end

local function count_slot(slot, number)
  if redis.call('HINCRBY', BY, slot.worker, number) <= 0 then redis.call('HDEL', BY, slot.worker) end
  local holders = holders_key(slot.band)
  if tonumber(redis.call('ZINCRBY', holders, number, slot.tenant)) <= 0 then redis.call('ZREM', holders, slot.tenant) end
end

local function held_by(worker) return number_at(BY, worker, 0) end

local function held_of(tenant)
  local own = 0
  for band = 0, 2 do own = own + tonumber(redis.call('ZSCORE', holders_key(band), tenant) or 0) end
  return own
end

-- Calls what it is given with band, tenant and number of slots.
local function each_holder(tell)
  for band = 0, 2 do
    local holders = redis.call('ZRANGE', holders_key(band), 0, -1, 'WITHSCORES')
    for at = 1, #holders, 2 do tell(band, holders[at], tonumber(holders[at + 1])) end
  end
end

-- Of a band: how many slots, how many tenants, and the most slots of one of them.
local function held_in(band)
  local most = redis.call('ZREVRANGE', holders_key(band), 0, 0, 'WITHSCORES')[2]
  return redis.call('ZCARD', since_key(band)), redis.call('ZCARD', holders_key(band)), tonumber(most or 0)
end

-- The slot is free, or is to be another's. Returns whether it was taken.
local function drop(id)
  redis.call('HDEL', GIVES, id)
  local value = redis.call('HGET', HELD, id)
  if not value then return false end
  local slot = slot_of(value)
  redis.call('HDEL', HELD, id)
  redis.call('SREM', ASKED, id)
  redis.call('ZREM', since_key(slot.band), id)
  count_slot(slot, -1)
  return true
end

local function hold(id, worker, since, band, tenant)
  drop(id)
  redis.call('HSET', HELD, id, worker .. '|' .. whole(since) .. '|' .. band .. '|' .. tenant)
  redis.call('ZADD', since_key(band), whole(since), id)
  count_slot({worker = worker, band = band, tenant = tenant}, 1)
end

local function forget_counts()
  redis.call('DEL', BY, ASKED)
  for band = 0, 2 do redis.call('DEL', since_key(band), holders_key(band)) end
end

-- Count anew where the counts are not those of `held`: a script that knew nothing of them had a part in it.
local function recount()
  local counted, is_whole = 0, true
  for band = 0, 2 do
    local slots, tenants = held_in(band)
    counted, is_whole = counted + slots, is_whole and (slots == 0) == (tenants == 0)
  end
  if counted == num_held() and is_whole and (counted == 0 or redis.call('EXISTS', BY) == 1) then return end
  forget_counts()
  for id, value in pairs(hash_of(HELD)) do
    local slot = slot_of(value)
    redis.call('ZADD', since_key(slot.band), whole(slot.since), id)
    count_slot(slot, 1)
    if not redis.call('ZSCORE', WORKERS, slot.worker) then drop(id) end -- a dead one's, that nobody would come for
  end
  for id, value in pairs(hash_of(GIVES)) do
    if string.match(value, '|.') then redis.call('SADD', ASKED, id) end
  end
end
