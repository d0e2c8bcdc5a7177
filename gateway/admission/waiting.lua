-- Who waits, and how places move when somebody leaves or costs something else: line.py and gaps.py. Stands between
-- `pace.lua` and `queue.lua`.
--
-- Beside `line`: line ':own:' band '|' tenant (sorted set: those of a tenant, with the same scores); line ':of:' worker (set
-- of ids); line ':gaps:' band '|' tenant (list: score '|' cost of those who have left). In `tenants`: 'g' band '|' tenant, the
-- sum of those costs.

local LEAST_MOVE, MOVE_OF_BACKLOG, MOVE_OF_LONG, LONG = 64, 1 / 64, 1 / 16, 2000
local MOVE_AT_ONCE = 500 -- places in one command
local GHOSTS_AT_MOST = 512 -- in one call

local function own_key(band, tenant) return LINE .. ':own:' .. band .. '|' .. tenant end
local function gaps_key(band, tenant) return LINE .. ':gaps:' .. band .. '|' .. tenant end
local function places_of(worker) return LINE .. ':of:' .. worker end

-- Whether a tenant's line is to be rewritten for a difference of its tags: of that part of its tokens.
local function is_worth_a_move(band, tenant, tokens, part)
  local backlog = number_at(TENANTS, 'w' .. band .. '|' .. tenant, 0)
  return backlog <= 0 or math.abs(tokens) >= math.max(LEAST_MOVE, backlog * part)
end

-- pairs_: list of {score, cost}. Returns the scores in order, and for each number of them the sum of the first costs.
local function summed(pairs_)
  table.sort(pairs_, function(one, other) return one[1] < other[1] end)
  local scores, sums = {}, {[0] = 0}
  for at, one in ipairs(pairs_) do
    scores[at], sums[at] = one[1], sums[at - 1] + one[2]
  end
  return scores, sums
end

-- How many of these, in order, are below a score.
local function num_below(scores, score)
  local low, high = 0, #scores
  while low < high do
    local middle = math.floor((low + high + 1) / 2)
    if scores[middle] < score then low = middle else high = middle - 1 end
  end
  return low
end

-- Move a tenant's finish tag, and its waiters as `by` says of their scores.
local function move(band, tenant, finish, by)
  local key, all = band .. '|' .. tenant, 0
  redis.call('HSET', TENANTS, 'f' .. key, whole(math.max(0, number_at(TENANTS, 'f' .. key, 0) + finish)))
  local own, new = redis.call('ZRANGE', own_key(band, tenant), 0, -1, 'WITHSCORES'), {}
  local function put()
    if #new == 0 then return end
    redis.call('ZADD', LINE, 'XX', unpack(new)) -- one that another script has taken out does not come back
    redis.call('ZADD', own_key(band, tenant), unpack(new))
    new = {}
  end
  for at = 1, #own, 2 do
    local score = tonumber(own[at + 1])
    local difference = by(score)
    if difference ~= 0 then
      new[#new + 1], new[#new + 2] = whole(math.max(band * STEP, score + difference)), own[at]
      all = all + difference
      if #new >= 2 * MOVE_AT_ONCE then put() end
    end
  end
  put()
  shifted(band, all)
end

local function gaps_of(band, tenant)
  local gaps = {}
  for at, gap in ipairs(redis.call('LRANGE', gaps_key(band, tenant), 0, -1)) do
    local score, cost = string.match(gap, '^(%d+)|(%d+)$')
    gaps[at] = {tonumber(score), tonumber(cost)}
  end
  return gaps
end

local function add_gap(band, tenant, score, cost)
  redis.call('RPUSH', gaps_key(band, tenant), whole(score) .. '|' .. whole(cost))
  redis.call('PEXPIRE', gaps_key(band, tenant), IDLE_MS)
end

-- Whether there are so many gaps that those behind them are to move up.
local function are_many_gaps(band, tenant)
  local num_gaps, num_waiting_ = redis.call('LLEN', gaps_key(band, tenant)), redis.call('ZCARD', own_key(band, tenant))
  local part = num_waiting_ > LONG and MOVE_OF_LONG or MOVE_OF_BACKLOG
  local tokens = number_at(TENANTS, 'g' .. band .. '|' .. tenant, 0)
  return num_gaps > num_waiting_ or is_worth_a_move(band, tenant, tokens, part)
end

-- Those who have left are nobody's any more: whoever stood behind them moves up.
local function close_gaps(band, tenant)
  local key = band .. '|' .. tenant
  if redis.call('EXISTS', gaps_key(band, tenant)) == 0 then return end
  local scores, sums = summed(gaps_of(band, tenant))
  redis.call('DEL', gaps_key(band, tenant))
  redis.call('HDEL', TENANTS, 'g' .. key)
  if redis.call('HEXISTS', TENANTS, 'f' .. key) == 0 then return end
  move(band, tenant, 0 - sums[#scores], function(score) return 0 - sums[num_below(scores, score)] end)
end

-- What a request really cost, less what was thought: moves the tenant's finish tag and its waiters, now or later.
local function settle(band, tenant, difference)
  local key = band .. '|' .. tenant
  if redis.call('HEXISTS', TENANTS, 'f' .. key) == 0 then return end
  local pending = number_at(TENANTS, 'd' .. key, 0) + difference
  if pending == 0 and difference == 0 then return end
  if not is_worth_a_move(band, tenant, pending, MOVE_OF_BACKLOG) then
    redis.call('HSET', TENANTS, 'd' .. key, whole(pending))
    return
  end
  redis.call('HDEL', TENANTS, 'd' .. key)
  local gaps = gaps_of(band, tenant)
  if #gaps > 0 then redis.call('DEL', gaps_key(band, tenant)) end
  for _, gap in ipairs(gaps) do
    add_gap(band, tenant, math.max(band * STEP, gap[1] + pending), gap[2])
  end
  move(band, tenant, pending, function() return pending end)
end

local function put_in(id, score, entry)
  local own, places = own_key(entry.band, entry.tenant), places_of(entry.worker)
  redis.call('ZADD', LINE, whole(score), id)
  redis.call('ZADD', own, whole(score), id)
  redis.call('SADD', places, id)
  for _, key in ipairs({own, places}) do redis.call('PEXPIRE', key, IDLE_MS) end
  redis.call('HINCRBY', TENANTS, 'w' .. entry.band .. '|' .. entry.tenant, whole(entry.cost))
  redis.call('HSET', ENTRIES, id, cjson.encode(entry))
  redis.call('HINCRBY', STATE, 'bytes', whole(entry.size))
end

-- Whether nobody of a tenant waits. Takes those off its head whom a script that knows no `own` has taken out of the line.
local function is_own_empty(band, tenant)
  local own = own_key(band, tenant)
  for _ = 1, GHOSTS_AT_MOST do
    local first = redis.call('ZRANGE', own, 0, 0)[1]
    if not first then return true end
    if redis.call('ZSCORE', LINE, first) then return false end
    redis.call('ZREM', own, first)
  end
  return false
end

-- Returns the score it had. Of one that such a script has taken out, leaving its entry, that is its band's first.
local function take_out(id, entry)
  local score = tonumber(redis.call('ZSCORE', LINE, id) or entry.band * STEP)
  redis.call('ZREM', LINE, id)
  redis.call('ZREM', own_key(entry.band, entry.tenant), id)
  redis.call('SREM', places_of(entry.worker), id)
  redis.call('HDEL', ENTRIES, id)
  redis.call('HINCRBY', STATE, 'bytes', whole(0 - entry.size))
  local waits = 'w' .. entry.band .. '|' .. entry.tenant
  if redis.call('HINCRBY', TENANTS, waits, whole(0 - entry.cost)) <= 0 then redis.call('HDEL', TENANTS, waits) end
  if is_own_empty(entry.band, entry.tenant) then close_gaps(entry.band, entry.tenant) end
  return score
end

-- Take waiters out that were not served: their tenants are not charged, and those of them behind move up, once that has come
-- to a part of the backlog. gone: list of {id, entry}.
local function remove_all(gone)
  local touched = {}
  for _, one in ipairs(gone) do
    local entry = one[2]
    local key, score = entry.band .. '|' .. entry.tenant, take_out(one[1], entry)
    if not entry.by_ticket then -- who stood before its own tenant's others has pushed none of them back
      add_gap(entry.band, entry.tenant, score, entry.cost)
      redis.call('HINCRBY', TENANTS, 'g' .. key, whole(entry.cost))
      touched[key] = entry
    end
  end
  for _, of in pairs(touched) do
    if are_many_gaps(of.band, of.tenant) then close_gaps(of.band, of.tenant) end
  end
end

local function remove(id, entry) remove_all({{id, entry}}) end
