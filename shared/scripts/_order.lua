-- What every script on one order begins with: the names, the order as it stands, and the one
-- function that moves it. Prepended by shared/ledger.py, with these before it:
--   LEGAL   {FROM = {TO = true}}, from shared/lifecycle.py
--   ENDED, WAITING   {STATE = true}
--   STATE_PREFIX, FENCE_PREFIX, CALL_PREFIX, MOVES   from shared/keys.py
--
-- KEYS  1 record  2 history  3 result  4 arq job  5 arq queue  6 wakeup  7 leases  8 doubts  9 orders
-- ARGV  1 the order's id; the rest belongs to the script
--
-- Times are milliseconds of the server's clock: no worker's clock decides anything.

local KEY = {record = KEYS[1], history = KEYS[2], result = KEYS[3], job = KEYS[4],
             queue = KEYS[5], wakeup = KEYS[6], leases = KEYS[7], doubts = KEYS[8], orders = KEYS[9]}
local ID = ARGV[1]
local WAKEUPS_MAX = 10000

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function whole(number) return string.format('%.0f', number) end

local order = {}
do
  local flat = redis.call('HGETALL', KEY.record)
  for i = 1, #flat, 2 do order[flat[i]] = flat[i + 1] end
end

local function number(field) return tonumber(order[field] or 0) end
local unanswered_before = number('unanswered')

-- Changes are gathered and written at once: `move` does it, a script that does not move calls `save`.
local changed = {}
local function put(field, value)
  order[field] = tostring(value)
  changed[#changed + 1] = field
  changed[#changed + 1] = order[field]
end
local function save()
  if #changed > 0 then redis.call('HSET', KEY.record, unpack(changed)) end
  changed = {}
end

local function history(from, to, note)
  local entry = {at = now, from = from, to = to, rule = note.rule, reason = note.reason, by = note.by}
  if order.attempt then entry.attempt = number('attempt') end
  local line = cjson.encode(entry)
  if note.evidence and note.evidence ~= '' then
    line = string.sub(line, 1, -2) .. ',"evidence":' .. note.evidence .. '}'
  end
  redis.call('RPUSH', KEY.history, line)
end

-- Waiting again: in arq's queue at its due time, never later than its deadline, so that an order
-- whose time is up is looked at when it is up.
local function wait_until(due)
  due = math.min(due, number('expires'))
  put('due', whole(due))
  redis.call('ZADD', KEY.queue, whole(due), ID)
  if due <= now then
    redis.call('LPUSH', KEY.wakeup, ID)
    redis.call('LTRIM', KEY.wakeup, 0, WAKEUPS_MAX - 1)
  end
end

-- The fence stands while an attempt to this number may have rung and nobody knows.
local function mind_the_fence(state)
  local fence = FENCE_PREFIX .. order.destination
  if number('unanswered') > 0 and (not ENDED[state] or state == 'DEAD') then
    redis.call('SADD', fence, ID)
  else
    redis.call('SREM', fence, ID)
  end
end

-- A person's wish to have it back, said when it was too late to be sure, is minded as soon as it
-- is sure: what would be sent again is cancelled instead, or left to a person if it may have rung.
local function wished(to)
  if (order.cancel_wish or '') == '' or not WAITING[to] then return to end
  return number('unanswered') > 0 and 'IN_DOUBT' or 'CANCELLED'
end

-- A person's act whose answer was lost is sent again under the same name, and answered again.
local function answered_before(act)
  if act ~= '' and order.act == act then return cjson.decode(order.act_answer) end
end
local function answer_act(act, answer)
  if act ~= '' then
    put('act', act)
    put('act_answer', cjson.encode(answer))
    save()
  end
  return answer
end

-- The answer that a waiting graph finds.
local function answer_with(state)
  redis.call('SET', KEY.result, cjson.encode({order_id = ID, state = state, rule = order.rule,
                                              call_sid = order.call_sid, reason = order.reason,
                                              at = now}))
end

-- note: {rule, reason, by, evidence (JSON), call_sid, wait (ms; nil or negative: none)}
local function move(to, note)
  local from = order.state
  if not (LEGAL[from] and LEGAL[from][to]) then
    return error('illegal move from ' .. tostring(from) .. ' to ' .. to)
  end
  redis.call('ZREM', STATE_PREFIX .. from, ID)
  redis.call('ZADD', STATE_PREFIX .. to, whole(now), ID)
  if from == 'SENDING' then redis.call('ZREM', KEY.leases, ID) end
  if from == 'IN_DOUBT' then redis.call('ZREM', KEY.doubts, ID) end
  if WAITING[from] then redis.call('ZREM', KEY.queue, ID) end
  put('state', to)
  put('moved', whole(now))
  put('rule', note.rule)
  put('reason', note.reason)
  if note.call_sid and note.call_sid ~= '' then
    put('call_sid', note.call_sid)
    redis.call('SET', CALL_PREFIX .. note.call_sid, ID)
  end
  if WAITING[to] then wait_until(now + math.max(note.wait or 0, 0)) end
  if to == 'IN_DOUBT' and note.wait and note.wait >= 0 then
    redis.call('ZADD', KEY.doubts, whole(now + note.wait), ID)
  end
  if order.waits_for then redis.call('HDEL', KEY.record, 'waits_for') end
  if unanswered_before > 0 or number('unanswered') > 0 then mind_the_fence(to) end
  if ENDED[to] or to == 'IN_DOUBT' then
    answer_with(to)
  elseif ENDED[from] or from == 'IN_DOUBT' then
    redis.call('DEL', KEY.result)
  end
  if ENDED[to] then redis.call('DEL', KEY.job) end
  save()
  history(from, to, note)
  redis.call('PUBLISH', MOVES, cjson.encode({{order_id = ID, state = to}}))
end
