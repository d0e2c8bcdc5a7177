-- One worker's talk with the truth about one tenant's limits: takes what the worker has used, gives leases.
--
-- KEYS, three for each limit: totals (hash: used by slot, 'g' the generation, '-1' a budget's seed), own (hash: what this
-- worker has told, by slot, 'g'), leases (hash: worker -> 'units:until_ms').
-- ARGV: worker, now_ms (0 = this server's clock), workers alive, lease_ms, JSON list of asks.
-- Returns now_ms and for each limit {status, level, left, wait_ms, reset_ms, generation}; status 0 = ok, 1 = changed,
-- 2 = unseeded.
--
-- What a worker has used is told as absolute numbers, so a call that is repeated changes nothing.

local WINDOW = 60
local BUDGET_MS = 3600000 -- then a budget begins again from the ledger, which heals whatever was lost

local worker, now, workers, lease_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function name(number) return string.format('%d', number) end

-- The generation of this count, begun when there is none. nil = a budget that needs its seed.
local function generation(totals, ask)
  local found = redis.call('HGET', totals, 'g')
  if found then return found end
  if ask.kind == 'budget' and ask.seed < 0 then return nil end
  found = name(now) .. '-' .. worker
  redis.call('HSET', totals, 'g', found)
  if ask.kind == 'budget' then
    redis.call('HSET', totals, '-1', name(ask.seed))
    redis.call('PEXPIRE', totals, BUDGET_MS)
  end
  return found
end

-- Add what this worker has used since it told last.
local function tell(totals, own, ask, mark)
  if redis.call('HGET', own, 'g') ~= mark then
    redis.call('DEL', own)
    redis.call('HSET', own, 'g', mark)
  end
  for _, pair in ipairs(ask.used) do
    local slot = name(pair[1])
    local more = pair[2] - tonumber(redis.call('HGET', own, slot) or 0)
    if more ~= 0 then
      redis.call('HINCRBY', totals, slot, name(more))
      redis.call('HSET', own, slot, name(pair[2]))
    end
  end
  redis.call('PEXPIRE', own, ask.kind == 'budget' and BUDGET_MS or (WINDOW + 2) * 1000)
end

-- What all workers have used and what is still counted of it, by slot, oldest first.
local function count(totals, own, is_window)
  local used, slots, oldest = 0, {}, math.floor(now / 1000) - WINDOW
  local all = redis.call('HGETALL', totals)
  for at = 1, #all, 2 do
    local slot, units = tonumber(all[at]), tonumber(all[at + 1])
    if slot and is_window and slot < oldest then
      redis.call('HDEL', totals, all[at])
      redis.call('HDEL', own, all[at])
    elseif slot then
      used = used + units
      if units > 0 then slots[#slots + 1] = {slot, units} end
    end
  end
  table.sort(slots, function(a, b) return a[1] < b[1] end)
  return used, slots
end

local function leased_by_others(leases)
  local units, all = 0, redis.call('HGETALL', leases)
  for at = 1, #all, 2 do
    local held, until_ms = string.match(all[at + 1], '^(%d+):(%d+)$')
    if tonumber(until_ms) < now then
      redis.call('HDEL', leases, all[at])
    elseif all[at] ~= worker then
      units = units + tonumber(held)
    end
  end
  return units
end

-- What those who wait need comes first; beyond it nobody takes more than half of an even part of what is free, so that
-- the last of a small limit is for whoever comes.
local function grant(ask, free)
  if ask.want <= ask.hold or free <= ask.hold then return ask.hold end
  local spare = math.floor((free - ask.hold - ask.need) / (2 * workers))
  spare = math.max(spare, math.floor(ask.limit / 1000))
  local level = math.min(ask.want, free, ask.hold + ask.need + spare)
  if level < ask.unit then return ask.hold end -- too little for any of them
  return level
end

-- Milliseconds until so many units of a window are free.
local function wait(slots, missing)
  for _, pair in ipairs(slots) do
    missing = missing - pair[2]
    if missing <= 0 then return (pair[1] + WINDOW + 1) * 1000 - now end
  end
  return 1000
end

local function answer(totals, own, leases, ask)
  local mark, used, slots = '', 0, {}
  if ask.kind ~= 'streams' then
    mark = generation(totals, ask)
    if not mark then return {2, 0, 0, 0, 0, ''} end
    if ask.generation ~= '' and ask.generation ~= mark then return {1, 0, 0, 0, 0, mark} end
    tell(totals, own, ask, mark)
    used, slots = count(totals, own, ask.kind == 'window')
    if ask.kind == 'window' then redis.call('PEXPIRE', totals, (WINDOW + 2) * 1000) end
  end
  local free = ask.limit - used - leased_by_others(leases)
  local level = grant(ask, free)
  if level > 0 then
    redis.call('HSET', leases, worker, name(level) .. ':' .. name(now + lease_ms))
    redis.call('PEXPIRE', leases, lease_ms * 2)
  else
    redis.call('HDEL', leases, worker)
  end
  local wait_ms, reset_ms = 0, 0
  if ask.kind == 'window' then
    local missing = ask.hold + ask.need - free
    if missing > 0 then wait_ms = wait(slots, missing) end
    if #slots > 0 then reset_ms = (slots[#slots][1] + WINDOW + 1) * 1000 - now end
  end
  return {0, level, free - level, wait_ms, reset_ms, mark}
end

local answers = {}
for at, ask in ipairs(cjson.decode(ARGV[5])) do
  answers[at] = answer(KEYS[3 * at - 2], KEYS[3 * at - 1], KEYS[3 * at], ask)
end
return {now, answers}
