-- Which slot is asked back for somebody who waits: the maths of recall.py. Stands between `drain.lua` and `pace.lua`.
--
-- KEYS[8], gives (hash): id of a slot whose answer can be broken off -> when it was granted, ms '|' whom it is asked
-- back for, or nothing. In `state`, 'credit': ends of answers that may still be paid with.

local GIVES = KEYS[8]
local MIN_HELD_MS, PRICE, HEADS = 250, 2, 4

local function hash_of(key)
  local all, flat = {}, redis.call('HGETALL', key)
  for at = 1, #flat, 2 do all[flat[at]] = flat[at + 1] end
  return all
end

local function entry_of(id)
  local raw = redis.call('HGET', ENTRIES, id)
  return raw and cjson.decode(raw)
end

local function give_of(value)
  local granted, waiter = string.match(value, '^(%d+)|(.*)$')
  return tonumber(granted), waiter
end

local function credit() return math.min(limit, number_at(STATE, 'credit', limit)) end

-- By slot, the entry that it is asked back for, where that one still waits; and the ids of those that are served so.
local function served_by(gives)
  local served, waiters = {}, {}
  for id, value in pairs(gives) do
    local _, waiter = give_of(value)
    local entry = waiter ~= '' and entry_of(waiter)
    if entry then served[id], waiters[waiter] = entry, true end
  end
  return served, waiters
end

-- The slot to ask back for one of this band and tenant; nil where nobody has to give way.
local function victim(id, band, tenant)
  if num_held() < limit or redis.call('HLEN', GIVES) == 0 or credit() < PRICE then return nil end
  local gives, held, total, good, sharing, num_sharing = hash_of(GIVES), {}, {}, {}, {}, 0
  local served, waiters = served_by(gives)
  if waiters[id] then return nil end
  local function shares(name)
    if not sharing[name] then sharing[name], num_sharing = true, num_sharing + 1 end
  end
  shares(tenant)
  for slot, holder in pairs(hash_of(HELD)) do
    local _, since, its_band, its_tenant = string.match(holder, '^(.-)|(%d+)|(%d)|(.*)$')
    held[slot] = {band = tonumber(its_band), since = tonumber(since), tenant = its_tenant}
    local owner = served[slot] or held[slot]
    total[owner.tenant] = (total[owner.tenant] or 0) + 1
    if owner.band <= band then
      good[owner.tenant] = (good[owner.tenant] or 0) + 1
      shares(owner.tenant)
    end
  end
  for _, first in ipairs(redis.call('ZRANGE', LINE, 0, LOOK_AHEAD - 1)) do
    local entry = entry_of(first)
    if entry and entry.band <= band then shares(entry.tenant) end
  end
  local share = limit / num_sharing
  if (good[tenant] or 0) >= share then return nil end
  local best
  for name, value in pairs(gives) do
    local slot, granted, waiter = held[name], give_of(value)
    if slot and waiter == '' and granted <= now - MIN_HELD_MS then
      local is_heavy = (good[slot.tenant] or 0) > math.max(LIGHT, OVER * share)
      if slot.band > band or (slot.band == band and slot.tenant ~= tenant and is_heavy) then
        local key = {slot.band, total[slot.tenant] or 0, slot.since, name}
        local is_better = best == nil
        for at = 1, is_better and 0 or 4 do
          if key[at] ~= best[at] then
            is_better = key[at] > best[at]
            break
          end
        end
        if is_better then best = key end
      end
    end
  end
  return best and best[4]
end

-- Ask a slot back. Its worker hears of it.
local function ask_back(slot, waiter)
  local holder = redis.call('HGET', HELD, slot)
  redis.call('HSET', GIVES, slot, whole((give_of(redis.call('HGET', GIVES, slot)))) .. '|' .. waiter)
  redis.call('HSET', STATE, 'credit', credit() - PRICE)
  mail(string.match(holder, '^(.-)|'), 'r' .. slot)
end
