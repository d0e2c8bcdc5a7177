-- What overtaking makes of an expected wait: the maths of pace.py. Stands between `recall.lua` and `queue.lua`.
--
-- In `state`: 'pace', the measures; 'm<band>', how far tags moved under those who waited (tokens, in the mean of all).

local MOST, SURE_SHARE, UNSURE, ROUNDS, NEWEST_COST = 10, 0.8, 0.5, 1, 0.1
local PACE_MEMORY_MS, PACE_MEMORY_HOLDS = 15000, 8
local LEAST_MS, LEAST_HOLDS, USUAL_MS, USUAL_ENDS, LONGEST_MS, LONGEST_HOLDS = 2500, 2, 1000, 10, 1000, 2

-- The id of the first in line of a band, and its tag; nil where nobody of it waits.
local function head_of(band)
  local head = redis.call('ZRANGEBYSCORE', LINE, whole(band * STEP), '(' .. whole((band + 1) * STEP), 'WITHSCORES',
    'LIMIT', 0, 1)
  if head[1] then return head[1], tonumber(head[2]) - band * STEP end
end

-- The virtual time that a newcomer meets.
local function virtual_time(band)
  local at = number_at(STATE, 't' .. band, 0)
  local _, tag = head_of(band)
  return tag and math.min(at, tag) or at
end

-- The tags of those of a band have moved by so many tokens, in their sum.
local function shifted(band, sum)
  local num = redis.call('ZCOUNT', LINE, whole(band * STEP), '(' .. whole((band + 1) * STEP))
  if num > 0 and sum ~= 0 then redis.call('HINCRBYFLOAT', STATE, 'm' .. band, string.format('%.6f', sum / num)) end
end

-- Lists begin with band 0.
local pace
local function paces()
  if not pace then
    local raw = redis.call('HGET', STATE, 'pace')
    pace = raw and cjson.decode(raw)
      or {tokens = {0, 0, 0}, ms = {0, 0, 0}, costs = {0, 0, 0}, marks = {0, 0, 0}, nums = {0, 0, 0}, at = 0, ends = 0}
  end
  return pace
end

-- Measure since the last look, if a slot has come free since.
local function measure()
  local p, hold, counts = paces(), measured().hold, by_band()
  local new_ends, since = measured().holds - p.ends, math.max(0, now - p.at)
  if new_ends == 0 then return end
  local fading = math.exp(0 - since / math.max(PACE_MEMORY_MS, PACE_MEMORY_HOLDS * hold))
  local counted = math.min(since, math.max(LONGEST_MS, LONGEST_HOLDS * hold))
  for at = 1, 3 do
    local mark = virtual_time(at - 1) - number_at(STATE, 'm' .. (at - 1), 0)
    p.tokens[at], p.ms[at] = p.tokens[at] * fading, p.ms[at] * fading
    if counts[at] > 0 and p.nums[at] >= ROUNDS * math.max(limit, new_ends) then
      p.tokens[at], p.ms[at] = p.tokens[at] + mark - p.marks[at], p.ms[at] + counted
    end
    p.marks[at], p.nums[at] = mark, counts[at]
    local id = head_of(at - 1)
    local entry = id and entry_of(id)
    if entry and entry.cost > 0 then
      local mean = p.costs[at] > 0 and p.costs[at] or entry.cost
      p.costs[at] = mean + NEWEST_COST * (entry.cost - mean)
    end
  end
  p.at, p.ends = now, measured().holds
  redis.call('HSET', STATE, 'pace', cjson.encode(p))
end

-- How many times as long as usual those in line before one will take, whose tag is so far behind its band's head.
local function stretch(band, gap, usual, lighter)
  local p, hold = paces(), measured().hold
  local way, ms = gap - UNSURE * p.costs[band + 1], p.ms[band + 1]
  if way <= 0 or usual <= 0 then return 1 end
  if ms < math.max(LEAST_MS, LEAST_HOLDS * hold) then return lighter end
  local few = math.max(USUAL_MS, USUAL_ENDS * hold / math.max(limit, 1))
  local tokens = math.max(0, p.tokens[band + 1]) + few * way / usual
  return math.max(1, way * (ms + few) / tokens / usual)
end

-- The wait behind so many, of one of this band whose tag is so far behind that of its head (tokens): what is expected, -1 =
-- nothing was measured yet; and what it will hardly be shorter than.
local function expected(num_ahead, band, gap, counts, left)
  local least, ahead, slower, lighter = forecast(num_ahead, band, counts, left)
  if least <= 0 then return least, least end
  local told = math.min(least * MOST, least * slower * stretch(band, gap, ahead * slower, lighter))
  return told, math.max(least, told * SURE_SHARE)
end
