-- Which slot is asked back for somebody who waits: the maths of recall.py. Stands between `drain.lua` and `pace.lua`.
--
-- In `state`, 'credit': ends of answers that may still be paid with.

local MIN_HELD_MS, PRICE, HEADS, LOOK_BACK = 100, 2, 4, 256

local function give_of(value)
  local granted, waiter = string.match(value, '^(%d+)|(.*)$')
  return tonumber(granted), waiter
end

local function credit() return math.min(limit, number_at(STATE, 'credit', limit)) end

-- By slot, the entry that it is asked back for, where that one still waits; and the ids of those that are served so.
local function served_by()
  local served, waiters = {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', ASKED)) do
    local _, waiter = give_of(redis.call('HGET', GIVES, id) or '0|')
    local entry = waiter ~= '' and entry_of(waiter)
    if entry then served[id], waiters[waiter] = entry, true end
  end
  return served, waiters
end

-- Slots by tenant: all of them, and those of no worse band. One that is asked back is as good as its waiter's.
local function shares_of(band, served)
  local total, good = {}, {}
  local function add(its_band, tenant, number)
    total[tenant] = (total[tenant] or 0) + number
    if its_band <= band then good[tenant] = (good[tenant] or 0) + number end
  end
  each_holder(function(its_band, tenant, number) add(its_band, tenant, number) end)
  for id, entry in pairs(served) do
    local slot = slot_of(redis.call('HGET', HELD, id))
    add(slot.band, slot.tenant, -1)
    add(entry.band, entry.tenant, 1)
  end
  return total, good
end

local looked_at = 0 -- in this call, of slots that might be asked back

-- Of these tenants' slots in a band that may be asked back, the newest; nil where there is none among those that are
-- looked at.
local function newest_of(band, tenants)
  local at, ids = 0
  repeat
    ids = redis.call('ZREVRANGEBYSCORE', since_key(band), whole(now - MIN_HELD_MS), '-inf', 'LIMIT', at, LOOK_AHEAD)
    local gives = #ids > 0 and redis.call('HMGET', GIVES, unpack(ids))
    local held = gives and redis.call('HMGET', HELD, unpack(ids))
    for number, id in ipairs(ids) do
      local granted, waiter = give_of(gives[number] or '0||')
      if waiter == '' and granted <= now - MIN_HELD_MS and tenants[slot_of(held[number]).tenant] then return id end
    end
    at, looked_at = at + #ids, looked_at + #ids
  until #ids < LOOK_AHEAD or looked_at >= LOOK_BACK
end

-- The slot to ask back: of the worst band, then of the tenant with most slots. gives_way: says so of a band and a tenant.
local function best_of(total, gives_way)
  local groups, known = {}, {}
  each_holder(function(band, tenant)
    if not gives_way(band, tenant) then return end
    local number = total[tenant] or 0
    local name = band .. '|' .. number
    if not known[name] then
      known[name] = {band = band, number = number, tenants = {}}
      groups[#groups + 1] = known[name]
    end
    known[name].tenants[tenant] = true
  end)
  table.sort(groups, function(one, other)
    if one.band ~= other.band then return one.band > other.band end
    return one.number > other.number
  end)
  for _, group in ipairs(groups) do
    local id = newest_of(group.band, group.tenants)
    if id then return id end
  end
end

-- Whether it is plain without a look at every tenant that nobody has to give way: no slot is of a worse band, and whoever
-- has most has not clearly more than the smallest share that there may be.
local function is_even(band)
  local asked = redis.call('SCARD', ASKED)
  local most, num_sharing = asked, 1 + asked + LOOK_AHEAD
  for its_band = 0, 2 do
    local slots, tenants, its_most = held_in(its_band)
    if its_band > band and slots > 0 then return false end
    most, num_sharing = most + its_most, num_sharing + tenants
  end
  return most <= math.max(LIGHT, OVER * limit / num_sharing)
end

-- The max-min fair share: what those have who want more, where nobody has more than is wanted. wants: slots by tenant.
-- Also returns the equal share.
local function shares_in(wants)
  local met, left, num = {}, limit, 0
  for _ in pairs(wants) do num = num + 1 end
  local equal = limit / num
  repeat
    local share, is_settled = left / num, true
    for tenant, wanted in pairs(wants) do
      if not met[tenant] and wanted <= share then
        met[tenant], left, num, is_settled = true, left - wanted, num - 1, false
      end
    end
  until is_settled or num == 0
  return num > 0 and left / num or math.huge, equal
end

-- The slot to ask back for one of this band and tenant; nil where nobody has to give way.
local function victim(id, band, tenant)
  if num_held() < limit or redis.call('HLEN', GIVES) == 0 or credit() < PRICE or is_even(band) then return nil end
  local served, waiters = served_by()
  if waiters[id] then return nil end
  local total, good = shares_of(band, served)
  local mine, wants = good[tenant] or 0, {}
  local function add(name, number)
    if number > 0 then wants[name] = (wants[name] or 0) + number end
  end
  for name, number in pairs(good) do add(name, number) end
  add(tenant, 1)
  if mine >= shares_in(wants) then return nil end -- what others want makes the share no larger
  for _, first in ipairs(redis.call('ZRANGE', LINE, 0, LOOK_AHEAD - 1)) do
    local entry = first ~= id and not waiters[first] and entry_of(first)
    if entry and entry.band <= band then add(entry.tenant, 1) end
  end
  local fair, equal = shares_in(wants)
  if mine >= fair then return nil end
  local heavy = math.max(LIGHT, OVER * equal, mine + 1)
  return best_of(total, function(its_band, its_tenant)
    return its_band > band or (its_band == band and its_tenant ~= tenant and (good[its_tenant] or 0) > heavy)
  end)
end

-- Ask a slot back. Its worker hears of it.
local function ask_back(slot, waiter)
  redis.call('HSET', GIVES, slot, whole((give_of(redis.call('HGET', GIVES, slot)))) .. '|' .. waiter)
  redis.call('SADD', ASKED, slot)
  redis.call('HSET', STATE, 'credit', credit() - PRICE)
  mail(slot_of(redis.call('HGET', HELD, slot)).worker, 'r' .. slot)
end
