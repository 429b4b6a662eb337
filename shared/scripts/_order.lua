-- What every script on orders begins with: the names, one order at a time as it stands, and the one
-- function that moves it. Prepended by shared/scripts/__init__.py, with these before it:
--   LEGAL   {FROM = {TO = true}}, ENDED, WAITING   {STATE = true}, from shared/lifecycle.py
--   KEY, PREFIX   the names of shared/keys.py
--
-- A script may be about many orders. `open` takes one up; what concerns the indexes that they share is
-- gathered and written by `flush` when all are done: one ZADD for a hundred orders costs as much as
-- one for one. `flush` runs behind every script.
--
-- Times are milliseconds of the server's clock: no worker's clock decides anything.

local WAKEUPS_MAX = 10000
local FIELDS = {'state', 'body', 'digest', 'destination', 'owner', 'thread', 'created', 'lifetime',
                'expires', 'moved', 'moves', 'token', 'attempt', 'free', 'unanswered', 'deaths', 'due',
                'lease', 'claim', 'settled', 'worker', 'handler', 'waits_for', 'rule', 'reason',
                'call_sid', 'cancel_wish', 'act', 'act_answer', 'forgotten'}

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function whole(number) return string.format('%.0f', number) end

-- The order that is taken up. Its changes are gathered and written at once: `move` does it, a script
-- that does not move calls `save`.
local ID, order, changed, unanswered_before

local function number(field) return tonumber(order[field] or 0) end

local function open(id)
  ID, order, changed = id, {}, {}
  local values = redis.call('HMGET', PREFIX.record .. id, unpack(FIELDS))
  for i, field in ipairs(FIELDS) do
    if values[i] then order[field] = values[i] end
  end
  unanswered_before = number('unanswered')
end

local function put(field, value)
  order[field] = tostring(value)
  changed[#changed + 1] = field
  changed[#changed + 1] = order[field]
end

local function save()
  if #changed > 0 then redis.call('HSET', PREFIX.record .. ID, unpack(changed)) end
  changed = {}
end

-- What the order that is taken up wants written (`mine`), and what all want that came to their end.
local mine = {}
local later = {zrem = {}, zadd = {}, del = {}, set = {}, wake = {}, told = {}}
local soonest  -- the first due time after now that this script has written

local function want(...) mine[#mine + 1] = {...} end
local function zrem(key) want('zrem', key, ID) end
local function zadd(key, score) want('zadd', key, whole(score), ID) end
local function del(key) want('del', nil, key) end
local function set(key, value) want('set', nil, key, value) end
local function tell(state) want('told', nil, {order_id = ID, state = state}) end

local function keep()
  for _, wish in ipairs(mine) do
    local words = later[wish[1]]
    if wish[2] then
      words[wish[2]] = words[wish[2]] or {}
      words = words[wish[2]]
    end
    words[#words + 1] = wish[3]
    if wish[4] then words[#words + 1] = wish[4] end
  end
  mine = {}
end
local function drop() mine = {} end

local function flush()
  for key, ids in pairs(later.zrem) do redis.call('ZREM', key, unpack(ids)) end
  for key, words in pairs(later.zadd) do redis.call('ZADD', key, unpack(words)) end
  if #later.del > 0 then redis.call('DEL', unpack(later.del)) end
  if #later.set > 0 then redis.call('MSET', unpack(later.set)) end
  if #later.wake > 0 and redis.call('LPUSH', KEY.wakeup, unpack(later.wake)) > WAKEUPS_MAX then
    redis.call('LTRIM', KEY.wakeup, 0, WAKEUPS_MAX - 1)
  end
  if #later.told > 0 then redis.call('PUBLISH', KEY.moves, cjson.encode(later.told)) end
end

-- Runs `act` once for each group of `width` arguments from ARGV[first] on. What fails for one order is
-- that order's answer, an error, and no other's; nothing is written to the indexes for it.
local function each(first, width, act)
  local answers = {}
  for at = first, #ARGV, width do
    local done, answer = pcall(act, at)
    if done then keep() else drop() end
    if not done and type(answer) ~= 'table' then answer = {err = 'ERR ' .. tostring(answer)} end
    answers[#answers + 1] = answer
  end
  return answers
end

-- Every move is kept in the record, as fields move_1, move_2 …
local function history(from, to, note)
  local entry = {at = now, from = from, to = to, rule = note.rule, reason = note.reason, by = note.by}
  if order.attempt then entry.attempt = number('attempt') end
  local line = cjson.encode(entry)
  if note.evidence and note.evidence ~= '' then
    line = string.sub(line, 1, -2) .. ',"evidence":' .. note.evidence .. '}'
  end
  put('moves', whole(number('moves') + 1))
  put('move_' .. order.moves, line)
end

-- Waiting again: in arq's queue at its due time, never later than its deadline, so that an order
-- whose time is up is looked at when it is up.
local function wait_until(due)
  due = math.min(due, number('expires'))
  put('due', whole(due))
  zadd(KEY.queue, due)
  if due <= now then
    want('wake', nil, ID)
  else
    soonest = math.min(soonest or due, due)
  end
end

-- The fence stands while an attempt to this number may have rung and nobody knows.
local function mind_the_fence(state)
  local fence = PREFIX.fence .. order.destination
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
  set(PREFIX.result .. ID, cjson.encode({order_id = ID, state = state, rule = order.rule,
                                         call_sid = order.call_sid, reason = order.reason, at = now}))
end

-- note: {rule, reason, by, evidence (JSON), call_sid, wait (ms; nil or negative: none)}
local function move(to, note)
  local from = order.state
  if not (LEGAL[from] and LEGAL[from][to]) then
    return error('illegal move from ' .. tostring(from) .. ' to ' .. to)
  end
  zrem(PREFIX.state .. from)
  zadd(PREFIX.state .. to, now)
  if from == 'SENDING' then zrem(KEY.leases) end
  if from == 'IN_DOUBT' then zrem(KEY.doubts) end
  if WAITING[from] then zrem(KEY.queue) end
  put('state', to)
  put('moved', whole(now))
  put('rule', note.rule)
  put('reason', note.reason)
  if note.call_sid and note.call_sid ~= '' then
    put('call_sid', note.call_sid)
    set(PREFIX.call .. note.call_sid, ID)
  end
  if WAITING[to] then wait_until(now + math.max(note.wait or 0, 0)) end
  if to == 'IN_DOUBT' and note.wait and note.wait >= 0 then zadd(KEY.doubts, now + note.wait) end
  if (order.waits_for or '') ~= '' then put('waits_for', '') end
  if unanswered_before > 0 or number('unanswered') > 0 then mind_the_fence(to) end
  if ENDED[to] or to == 'IN_DOUBT' then
    answer_with(to)
  elseif ENDED[from] or from == 'IN_DOUBT' then
    del(PREFIX.result .. ID)
  end
  if ENDED[to] then del(PREFIX.job .. ID) end
  history(from, to, note)
  save()
  tell(to)
end
