-- The one line in front of a tier's slots: the maths of line.py, shared by all workers.
--
-- KEYS: held (hash: id -> worker), line (sorted set: id -> band * 2^50 + tag), entries (hash: id -> what is known of it),
-- tenants (hash: 'f'|'p' band '|' tenant -> finish tag, promised tag), state (hash: 't<band>' virtual time, 'hold' mean
-- milliseconds, 'holds', 'bytes', 'epoch', 'secret'), workers (sorted set: worker -> last beat).
-- ARGV: operation, now_ms (0 = this server's clock), limit, mailboxes' prefix, then the operation's own.
-- A worker's mailbox is a list: 'g' id = has a slot, 'd' id = its place was taken by somebody with a better right.

local HELD, LINE, ENTRIES, TENANTS, STATE, WORKERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local operation, now, limit, mailboxes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local STEP = 1125899906842624
local DEAD_MS, MAILBOX_MS, IDLE_MS = 2000, 30000, 86400000
local MAX_TENANTS = 100000
local NEWEST_SHARE = 0.05

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

local function eta(position)
  local hold = number_at(STATE, 'hold', -1)
  if hold < 0 then return -1, hold end
  return position * hold / math.max(limit, 1), hold
end

local function forget(id, entry)
  redis.call('HDEL', ENTRIES, id)
  redis.call('HINCRBY', STATE, 'bytes', whole(0 - entry.size))
end

-- Take a waiter out that was not served.
local function remove(id, entry)
  redis.call('ZREM', LINE, id)
  forget(id, entry)
  local key = 'f' .. entry.band .. '|' .. entry.tenant
  local finish = redis.call('HGET', TENANTS, key)
  if finish then redis.call('HSET', TENANTS, key, whole(math.max(0, tonumber(finish) - entry.cost))) end
end

local function entry_of(id)
  local raw = redis.call('HGET', ENTRIES, id)
  return raw and cjson.decode(raw)
end

local function let_in(id, worker, band, tag)
  redis.call('HSET', HELD, id, worker)
  if tag > number_at(STATE, 't' .. band, 0) then redis.call('HSET', STATE, 't' .. band, whole(tag)) end
end

local function grant()
  while num_waiting() > 0 and num_held() < limit do
    local id = redis.call('ZRANGE', LINE, 0, 0)[1]
    local entry = entry_of(id)
    if not entry then
      redis.call('ZREM', LINE, id)
    elseif entry.till < now or not is_alive(entry.worker) then
      remove(id, entry)
    else
      redis.call('ZREM', LINE, id)
      forget(id, entry)
      let_in(id, entry.worker, entry.band, entry.tag)
      mail(entry.worker, 'g' .. id)
    end
  end
end

local function charge(band, tenant, tag, cost)
  local key = 'f' .. band .. '|' .. tenant
  redis.call('HSET', TENANTS, key, whole(math.max(number_at(TENANTS, key, 0), tag) + cost))
  if redis.call('HLEN', TENANTS) > 2 * MAX_TENANTS then redis.call('DEL', TENANTS) end
end

-- With nobody here, nobody is ahead of anybody.
local function rest()
  if num_held() > 0 or num_waiting() > 0 then return end
  local all = redis.call('HGETALL', TENANTS)
  for at = 1, #all, 2 do
    local band = string.match(all[at], '^f(%d)|')
    if band and tonumber(all[at + 1]) > number_at(STATE, 't' .. band, 0) then
      redis.call('HSET', STATE, 't' .. band, all[at + 1])
    end
  end
  redis.call('DEL', TENANTS)
  redis.call('HSET', STATE, 'bytes', 0)
end

local function stay()
  for _, key in ipairs({STATE, TENANTS, WORKERS}) do redis.call('PEXPIRE', key, IDLE_MS) end
end

local function enter()
  local id, worker, tenant = ARGV[5], ARGV[6], ARGV[7]
  local band, cost, size = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
  local wait_ms, finish_ms, ticket = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
  local max_waiting, max_bytes, ticket_id = tonumber(ARGV[14]), tonumber(ARGV[15]), ARGV[16]
  grant()
  if redis.call('HEXISTS', HELD, id) == 1 then return {'granted', 0, '0', '0', num_held(), num_waiting()} end
  local earlier = entry_of(id) -- the same call, sent again because its reply was lost
  if earlier then remove(id, earlier) end
  if ticket >= 0 then -- good for one place, not for one after the other
    local used = HELD .. ':ticket:' .. ticket_id
    if redis.call('SET', used, '1', 'NX', 'PX', ARGV[17]) == false then ticket = -1 end
  end
  local key = band .. '|' .. tenant
  local tag = ticket
  if ticket < 0 then tag = math.max(number_at(STATE, 't' .. band, 0), number_at(TENANTS, 'f' .. key, 0)) end
  if num_held() < limit and num_waiting() == 0 then
    let_in(id, worker, band, tag)
    charge(band, tenant, tag, cost)
    return {'granted', 0, '0', whole(tag), num_held(), 0}
  end
  local score = band * STEP + tag
  local ahead = redis.call('ZCOUNT', LINE, '-inf', '(' .. whole(score))
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', LINE, whole(score), whole(score))) do
    if other <= id then ahead = ahead + 1 end
  end
  local position = ahead + 1
  local eta_ms, hold = eta(position)
  local refusal
  if eta_ms >= 0 and finish_ms > 0 and eta_ms + hold > finish_ms then
    refusal = 'infeasible'
  elseif eta_ms >= 0 and eta_ms > wait_ms then
    refusal = 'too_long'
  elseif size > max_bytes or max_waiting < 1 then
    refusal = 'full'
  else
    while num_waiting() >= max_waiting or number_at(STATE, 'bytes', 0) + size > max_bytes do
      local worst = redis.call('ZRANGE', LINE, -1, -1, 'WITHSCORES')
      if tonumber(worst[2]) <= score then
        refusal = 'full'
        break
      end
      local entry = entry_of(worst[1])
      remove(worst[1], entry)
      mail(entry.worker, 'd' .. worst[1])
    end
  end
  if refusal then
    if ticket < 0 then
      tag = math.max(tag, number_at(TENANTS, 'p' .. key, 0))
      redis.call('HSET', TENANTS, 'p' .. key, whole(tag + cost))
    else
      redis.call('DEL', HELD .. ':ticket:' .. ticket_id) -- it comes again with the place that it has
    end
    return {refusal, position, tostring(eta_ms), whole(tag), num_held(), num_waiting()}
  end
  local entry = {tenant = tenant, band = band, cost = cost, size = size, till = now + wait_ms, tag = tag, worker = worker}
  redis.call('ZADD', LINE, whole(score), id)
  redis.call('HSET', ENTRIES, id, cjson.encode(entry))
  redis.call('HINCRBY', STATE, 'bytes', whole(size))
  charge(band, tenant, tag, cost)
  return {'waiting', position, tostring(eta_ms), whole(tag), num_held(), num_waiting()}
end

-- ARGV from 5: JSON list of {id, held_ms (-1 = was not used), tenant, band, difference in cost}.
local function release()
  for _, row in ipairs(cjson.decode(ARGV[5])) do
    local id, held_ms, tenant, band, difference = row[1], row[2], row[3], row[4], row[5]
    local entry = entry_of(id)
    if entry then
      remove(id, entry)
    elseif redis.call('HDEL', HELD, id) == 1 and held_ms >= 0 then
      local holds = redis.call('HINCRBY', STATE, 'holds', 1)
      local hold = number_at(STATE, 'hold', -1)
      local share = math.max(NEWEST_SHARE, 1 / holds)
      if hold < 0 then hold = held_ms else hold = hold + share * (held_ms - hold) end
      redis.call('HSET', STATE, 'hold', string.format('%.17g', hold))
      local key = 'f' .. band .. '|' .. tenant
      local finish = difference ~= 0 and redis.call('HGET', TENANTS, key)
      if finish then redis.call('HSET', TENANTS, key, whole(math.max(0, tonumber(finish) + difference))) end
    end
  end
  grant()
  rest()
  return {num_held(), num_waiting()}
end

local function bury(worker)
  local held = redis.call('HGETALL', HELD)
  for at = 1, #held, 2 do
    if held[at + 1] == worker then redis.call('HDEL', HELD, held[at]) end
  end
  local waiting = redis.call('HGETALL', ENTRIES)
  for at = 1, #waiting, 2 do
    local entry = cjson.decode(waiting[at + 1])
    if entry.worker == worker then remove(waiting[at], entry) end
  end
  redis.call('ZREM', WORKERS, worker)
  redis.call('DEL', mailboxes .. worker)
end

-- ARGV from 5: worker, a secret to take where there is none.
local function beat()
  local worker = ARGV[5]
  local is_known = redis.call('ZSCORE', WORKERS, worker) and 1 or 0
  redis.call('ZADD', WORKERS, now, worker)
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now - DEAD_MS - 1)) do bury(dead) end
  redis.call('HSETNX', STATE, 'secret', ARGV[6])
  grant()
  rest()
  stay()
  local mine = 0
  for _, holder in ipairs(redis.call('HVALS', HELD)) do
    if holder == worker then mine = mine + 1 end
  end
  local waiting = {}
  for band = 0, 2 do
    waiting[band + 1] = redis.call('ZCOUNT', LINE, whole(band * STEP), '(' .. whole((band + 1) * STEP))
  end
  return {is_known, mine, num_held(), waiting, tostring(number_at(STATE, 'hold', -1)),
    redis.call('HGET', STATE, 'secret'), redis.call('ZCARD', WORKERS), number_at(STATE, 'bytes', 0)}
end

-- ARGV from 5: worker, JSON list of the ids that it holds, JSON object of those that it still asks for.
local function restore()
  local worker, holds, asked = ARGV[5], {}, {}
  for _, id in ipairs(cjson.decode(ARGV[6])) do holds[id] = true end
  for _, id in ipairs(cjson.decode(ARGV[7])) do asked[id] = true end
  local held = redis.call('HGETALL', HELD)
  for at = 1, #held, 2 do
    if held[at + 1] == worker and not holds[held[at]] and not asked[held[at]] then redis.call('HDEL', HELD, held[at]) end
  end
  for id in pairs(holds) do redis.call('HSET', HELD, id, worker) end
  grant()
  return {num_held(), num_waiting()}
end

-- ARGV from 5: ids. For each: its place; 0 = it has a slot; -1 = unknown.
local function look()
  local places = {}
  for at = 5, #ARGV do
    local rank = redis.call('ZRANK', LINE, ARGV[at])
    if rank then
      places[at - 4] = rank + 1
    else
      places[at - 4] = redis.call('HEXISTS', HELD, ARGV[at]) == 1 and 0 or -1
    end
  end
  return {tostring(number_at(STATE, 'hold', -1)), num_held(), num_waiting(), places}
end

local operations = {enter = enter, release = release, beat = beat, restore = restore, look = look}
return operations[operation]()
