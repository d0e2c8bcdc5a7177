-- How fast slots come free, as measured: the maths of drain.py. Stands between `held.lua` and `recall.lua`.
--
-- In `state`, 'drain': the measures.

local NEWEST_SHARE, MEMORY_MS, MAX_TAKEN, FEW_ROUNDS = 0.05, 10000, 0.9, 0.5

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

-- The taken slots as they are now: how many, their mean hold, and when one of them should come free.
local Left = {}
Left.__index = Left

local function slots_left()
  local left = setmetatable({number = 0, typical = 0, bands = {}, known = {}}, Left)
  for band = 0, 2 do
    local number = redis.call('ZCARD', since_key(band))
    if number > 0 then
      left.bands[#left.bands + 1] = {key = since_key(band), number = number, mean = mean_of(band)}
      left.number, left.typical = left.number + number, left.typical + number * mean_of(band)
    end
  end
  left.typical = left.number > 0 and left.typical / left.number or measured().hold
  return left
end

-- When the slot of a band should come free that so many of the band come before.
local function free_at(of, at)
  local row = redis.call('ZRANGE', of.key, at, at, 'WITHSCORES')
  return tonumber(row[2]) + of.mean
end

-- How many come free until then.
function Left:until_(free)
  local number = 0
  for _, of in ipairs(self.bands) do
    number = number + redis.call('ZCOUNT', of.key, '-inf', string.format('%.6f', free - of.mean + 1e-6))
  end
  return number
end

-- Milliseconds until the next one comes free after so many others.
function Left:free_in(num_before)
  if self.number == 0 then return 0 end
  if self.known[num_before] then return self.known[num_before] end
  local soonest
  for _, of in ipairs(self.bands) do
    local low, high = 0, of.number -- the first of this band with enough others before it, or none
    if #self.bands == 1 then low, high = num_before, num_before end
    while low < high do
      local middle = math.floor((low + high) / 2)
      if self:until_(free_at(of, middle)) > num_before then high = middle else low = middle + 1 end
    end
    local free = low < of.number and free_at(of, low)
    if free and (not soonest or free < soonest) then soonest = free end
  end
  self.known[num_before] = math.max(0, soonest - now)
  return self.known[num_before]
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
local function forecast(num_ahead, band, counts, left)
  if measured().hold < 0 then return -1, -1, 1, 1 end
  local work, rest_ahead, slots, taken = 0, num_ahead, math.max(limit, 1), 0
  for each = 0, band do
    local number = math.min(rest_ahead, each < band and counts[each + 1] or rest_ahead)
    work, rest_ahead = work + number * mean_of(each), rest_ahead - number
    if each < band then taken = taken + measured().busy[each + 1] end
  end
  local number = math.max(1, left.number)
  local rounds, at = math.floor(num_ahead / number), num_ahead % number
  local by_slot = left:free_in(at) + rounds * (num_ahead > 0 and work / num_ahead or left.typical)
  local differ = math.min(1, math.sqrt(measured().spread))
  taken = math.min(MAX_TAKEN, taken * fade() / (MEMORY_MS * slots))
  local light = measured().light[band + 1]
    / math.max(1, measured().full[band + 1] + FEW_ROUNDS * slots * measured().hold)
  return (1 - differ) * by_slot + differ * (work + left.typical) / slots,
    (1 - differ) * work / number + differ * work / slots,
    1 / (1 - taken),
    1 / (1 - math.min(MAX_TAKEN, light))
end
