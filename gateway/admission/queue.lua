-- The one line in front of a tier's slots: the maths of line.py, shared by all workers. Goes on where `waiting.lua` ends.

-- gives: whether its answer can be broken off. before: how long it had a slot already, ms.
local function let_in(id, worker, band, tenant, tag, gives, before)
  hold(id, worker, now - math.max(0, before), band, tenant)
  if gives then redis.call('HSET', GIVES, id, whole(now) .. '|') end
  if tag > number_at(STATE, 't' .. band, 0) then redis.call('HSET', STATE, 't' .. band, whole(tag)) end
end

local function see(tenant)
  if headroom < 1 then return end
  redis.call('ZADD', SEEN, now, tenant)
  redis.call('ZREMRANGEBYSCORE', SEEN, '-inf', now - RECENT_MS - 1)
  redis.call('PEXPIRE', SEEN, RECENT_MS)
end

-- Whether a slot is free for one of this tenant.
local function may_take(tenant)
  local free = limit - num_held()
  if free > headroom or free <= 0 then return free > 0 end
  local num_tenants = redis.call('ZCARD', SEEN)
  if num_tenants < 2 then return true end
  return held_of(tenant) < math.max(LIGHT, OVER * limit / num_tenants)
end

local BURY_AT_MOST, PASS_AT_MOST = 512, 1024
local passed = 0 -- in this call, of the line's places that nobody waits in any more

-- Everything of a dead worker comes back: its slots at once, its places so many at a time, each time it is met.
local function bury(worker)
  for id, value in pairs(held_by(worker) > 0 and hash_of(HELD) or {}) do
    if slot_of(value).worker == worker then drop(id) end
  end
  local gone = {}
  if passed >= PASS_AT_MOST then return end
  for _, id in ipairs(redis.call('SPOP', places_of(worker), BURY_AT_MOST)) do
    local entry = entry_of(id)
    if entry then gone[#gone + 1] = {id, entry} end
  end
  passed = passed + #gone
  remove_all(gone)
  if redis.call('EXISTS', places_of(worker)) == 1 then return end
  redis.call('ZREM', WORKERS, worker)
  redis.call('HDEL', STATE, 'l' .. worker)
  redis.call('DEL', mailboxes .. worker)
end

-- A waiter gets a slot.
local function give(id, entry)
  let_in(id, entry.worker, entry.band, entry.tenant, take_out(id, entry) - entry.band * STEP, entry.gives, entry.before or -1)
  mail(entry.worker, 'g' .. id)
end

-- Whom a slot is asked back for, with its entry, where that one still waits.
local function wanted_by(id)
  local value = redis.call('HGET', GIVES, id)
  local _, waiter = give_of(value or '0|')
  local entry = waiter ~= '' and entry_of(waiter)
  if entry and entry.till >= now and is_alive(entry.worker) then return waiter, entry end
end

-- A slot is free again: whom it was asked back for has it. Returns whether it was taken.
local function free(id)
  local waiter, entry = wanted_by(id)
  local was_held = drop(id)
  if was_held and waiter and num_held() < limit then give(waiter, entry) end
  return was_held
end

-- Let the first in line who may have a slot have it. Returns whether there was one.
local function grant_one()
  for _, id in ipairs(redis.call('ZRANGE', LINE, 0, LOOK_AHEAD - 1)) do
    local entry = entry_of(id)
    if not entry then
      passed = passed + 1
      redis.call('ZREM', LINE, id)
      return true
    elseif not is_alive(entry.worker) then
      bury(entry.worker)
      passed = passed + 1
      if entry_of(id) then remove(id, entry) end -- not the turn of this one, or the set of its worker's places is gone
      return true
    elseif entry.till < now then
      passed = passed + 1
      remove(id, entry)
      return true
    elseif may_take(entry.tenant) then
      give(id, entry)
      return true
    end
  end
  return false
end

local function grant()
  while num_waiting() > 0 and num_held() < limit and passed < PASS_AT_MOST and grant_one() do end
end

local function newcomers_tag(band, tenant)
  return math.max(virtual_time(band), number_at(TENANTS, 'f' .. band .. '|' .. tenant, 0))
end

local function charge(band, tenant, cost)
  redis.call('HSET', TENANTS, 'f' .. band .. '|' .. tenant, whole(newcomers_tag(band, tenant) + cost))
  if redis.call('HLEN', TENANTS) > 4 * MAX_TENANTS then redis.call('DEL', TENANTS) end
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
  redis.call('DEL', TENANTS, GIVES)
  forget_counts()
  redis.call('HSET', STATE, 'bytes', 0)
end

local function stay()
  for _, key in ipairs({STATE, TENANTS, WORKERS, GIVES}) do redis.call('PEXPIRE', key, IDLE_MS) end
end

-- Tickets for those of a tenant who are refused from now on keep places behind this one.
local function promise(key, tag, cost)
  redis.call('HSET', TENANTS, 'p' .. key, whole(math.max(number_at(TENANTS, 'p' .. key, 0), tag + cost)))
end

-- The place of one whose answer was broken off: that of the first of its tenant, or a newcomer's.
local function own_head(band, tenant, tag)
  local first = redis.call('ZRANGE', own_key(band, tenant), 0, 0, 'WITHSCORES')
  return first[1] and math.min(tag, tonumber(first[2]) - band * STEP) or tag
end

-- before: -1, or how long it had a slot until its answer was broken off (ms). Where it still has that slot, this gives it
-- back; or lets it have it on, when nobody waits for it any more.
local function enter()
  local id, worker, tenant = ARGV[6], ARGV[7], ARGV[8]
  local band, cost, size = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
  local wait_ms, finish_ms, ticket = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
  local max_waiting, max_bytes, ticket_id = tonumber(ARGV[15]), tonumber(ARGV[16]), ARGV[17]
  local gives, before, has_waited = ARGV[19] == '1', tonumber(ARGV[20]), ARGV[21] == '1'
  if before >= 0 and redis.call('HEXISTS', HELD, id) == 1 then
    if not wanted_by(id) then
      if gives then redis.call('HSET', GIVES, id, whole(now) .. '|') else redis.call('HDEL', GIVES, id) end
      redis.call('SREM', ASKED, id)
      return {'granted', 0, '0', whole(newcomers_tag(band, tenant)), num_held(), num_waiting()}
    end
    free(id)
  end
  see(tenant)
  grant()
  local key = band .. '|' .. tenant
  local tag = newcomers_tag(band, tenant)
  if redis.call('HEXISTS', HELD, id) == 1 then return {'granted', 0, '0', whole(tag), num_held(), num_waiting()} end
  local earlier = entry_of(id) -- the same call, sent again because its reply was lost
  if earlier then remove(id, earlier) end
  if ticket >= 0 then -- good for one place, not for one after the other
    local used = HELD .. ':ticket:' .. ticket_id
    local is_new = redis.call('SET', used, id, 'NX', 'PX', ARGV[18])
    if not is_new and redis.call('GET', used) ~= id then ticket = -1 end
  end
  tag = newcomers_tag(band, tenant)
  if ticket >= 0 then tag = math.min(tag, ticket) end -- a ticket never makes a place worse
  if before >= 0 then tag = own_head(band, tenant, tag) end
  if passed < PASS_AT_MOST and may_take(tenant) then -- whoever waits may not, or had been let in
    charge(band, tenant, cost)
    let_in(id, worker, band, tenant, tag, gives, before)
    return {'granted', 0, '0', whole(tag), num_held(), num_waiting()}
  end
  local score = band * STEP + tag
  local ahead = redis.call('ZCOUNT', LINE, '-inf', '(' .. whole(score))
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', LINE, whole(score), whole(score))) do
    if other <= id then ahead = ahead + 1 end
  end
  local position = ahead + 1
  local slot = victim(id, band, tenant)
  local _, head = head_of(band)
  local eta_ms, sure_ms = 0, 0
  if not slot then eta_ms, sure_ms = expected(ahead, band, head and tag - head or 0, by_band(), slots_left()) end
  local refusal
  if before >= 0 then -- its client has the beginning of the answer
  elseif sure_ms >= 0 and finish_ms > 0 and sure_ms + mean_of(band) > finish_ms then
    refusal = 'infeasible'
  elseif has_waited then -- in a line that is no more: it was told to wait
  elseif sure_ms >= 0 and sure_ms > wait_ms then
    refusal = 'too_long'
  elseif size > max_bytes or max_waiting < 1 then
    refusal = max_waiting < 1 and 'full' or 'large'
  else
    local most, most_bytes = math.max(max_waiting, num_waiting()), math.max(max_bytes, number_at(STATE, 'bytes', 0))
    while num_waiting() >= most or number_at(STATE, 'bytes', 0) + size > most_bytes do
      local worst = redis.call('ZRANGE', LINE, -1, -1, 'WITHSCORES')
      local entry = entry_of(worst[1])
      if not entry or tonumber(worst[2]) <= score or (entry.before or -1) >= 0 then
        refusal = num_waiting() >= most and 'full' or 'large'
        break
      end
      remove(worst[1], entry)
      promise(entry.band .. '|' .. entry.tenant, tonumber(worst[2]) - entry.band * STEP, entry.cost) -- it may come back
      mail(entry.worker, 'd' .. worst[1])
    end
  end
  if refusal then
    if ticket < 0 then
      tag = math.max(tag, number_at(TENANTS, 'p' .. key, 0))
      promise(key, tag, cost)
    else
      redis.call('DEL', HELD .. ':ticket:' .. ticket_id) -- it comes again with the place that it has
    end
    return {refusal, position, tostring(eta_ms), whole(tag), num_held(), num_waiting()}
  end
  charge(band, tenant, cost)
  local entry = {tenant = tenant, band = band, cost = cost, size = size, till = now + wait_ms, worker = worker,
    gives = gives, before = before, by_ticket = ticket >= 0}
  put_in(id, score, entry)
  if slot then ask_back(slot, id) end
  return {'waiting', position, tostring(eta_ms), whole(tag), num_held(), num_waiting()}
end

-- ARGV from 6: JSON list of {id, held_ms (-1 = was not used), tenant, band, difference in cost}.
local function release()
  local gone, rows = {}, cjson.decode(ARGV[6])
  for _, row in ipairs(rows) do
    local entry = entry_of(row[1])
    if entry then gone[#gone + 1] = {row[1], entry} end
  end
  remove_all(gone)
  for _, row in ipairs(rows) do
    local id, held_ms, tenant, band, difference = row[1], row[2], row[3], row[4], row[5]
    if redis.call('HEXISTS', HELD, id) == 1 then
      if held_ms >= 0 then
        note(band, held_ms, head_of(band) ~= nil, redis.call('EXISTS', own_key(band, tenant)) == 0)
        redis.call('HSET', STATE, 'credit', math.min(limit, credit() + 1))
        settle(band, tenant, difference)
      end
      free(id)
    end
  end
  save()
  grant()
  rest()
  return {num_held(), num_waiting()}
end

-- Look again for slots to ask back, for the first in line.
local function recall()
  for _, id in ipairs(redis.call('ZRANGE', LINE, 0, HEADS - 1)) do
    local entry = entry_of(id)
    local is_waiting = entry and entry.till >= now and is_alive(entry.worker)
    local slot = is_waiting and victim(id, entry.band, entry.tenant)
    if slot then ask_back(slot, id) end
  end
end

-- The slots of all, where each worker has learned for itself how many the engine bears: the mean.
local function shared_limit()
  local sum, count = 0, 0
  for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    local learned = number_at(STATE, 'l' .. worker, 0)
    if learned > 0 then sum, count = sum + learned, count + 1 end
  end
  return count > 0 and math.floor(sum / count) or limit
end

-- ARGV from 6: worker, a secret to take where there is none, how many slots this worker would have.
local function beat()
  local worker = ARGV[6]
  local is_known = is_alive(worker) and 1 or 0
  redis.call('ZADD', WORKERS, now, worker)
  recount()
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now - DEAD_MS - 1)) do bury(dead) end
  redis.call('HSETNX', STATE, 'secret', ARGV[7])
  redis.call('HSET', STATE, 'l' .. worker, ARGV[8])
  limit = shared_limit()
  grant()
  measure()
  recall()
  rest()
  stay()
  return {is_known, held_by(worker), num_held(), by_band(), tostring(measured().hold),
    redis.call('HGET', STATE, 'secret'), redis.call('ZCARD', WORKERS), number_at(STATE, 'bytes', 0), limit}
end

-- ARGV from 6: worker, JSON list of the ids that it holds, JSON list of those that it still asks for, and an id: what is newer
-- it has asked for since.
local function restore()
  local worker, holds, asked = ARGV[6], {}, {}
  for _, id in ipairs(cjson.decode(ARGV[7])) do holds[id] = true end
  for _, id in ipairs(cjson.decode(ARGV[8])) do asked[id] = true end
  for id, value in pairs(hash_of(HELD)) do
    if slot_of(value).worker == worker and id < ARGV[9] and not holds[id] and not asked[id] then drop(id) end
  end
  local gone = {}
  for _, id in ipairs(redis.call('SMEMBERS', places_of(worker))) do
    local entry = id < ARGV[9] and not asked[id] and entry_of(id)
    if entry then gone[#gone + 1] = {id, entry} end
  end
  remove_all(gone)
  for id in pairs(holds) do
    if redis.call('HEXISTS', HELD, id) == 0 then hold(id, worker, now, 0, '') end
  end
  grant()
  return {num_held(), num_waiting()}
end

-- ARGV from 6: ids. For each: its place (0 = it has a slot, -1 = unknown), its expected wait, and its tag (-1 = none).
local function look()
  local places, etas, tags, counts = {}, {}, {}, by_band()
  local left = slots_left()
  local _, served = served_by()
  local heads = {[0] = {head_of(0)}, {head_of(1)}, {head_of(2)}}
  for at = 6, #ARGV do
    local place, eta_ms, tag = -1, -1, -1
    local rank = redis.call('ZRANK', LINE, ARGV[at])
    if rank then
      local band = rank < counts[1] and 0 or rank < counts[1] + counts[2] and 1 or 2
      tag = tonumber(redis.call('ZSCORE', LINE, ARGV[at])) - band * STEP
      place, eta_ms = rank + 1, served[ARGV[at]] and 0 or (expected(rank, band, tag - heads[band][2], counts, left))
    elseif redis.call('HEXISTS', HELD, ARGV[at]) == 1 then
      place = 0
    end
    places[at - 5], etas[at - 5], tags[at - 5] = place, tostring(eta_ms), whole(tag)
  end
  return {num_held(), num_waiting(), places, etas, tags}
end

local operations = {enter = enter, release = release, beat = beat, restore = restore, look = look}
return operations[operation]()
