-- Gives one worker, and no other, the right to send orders until its lease runs out: those that are
-- due, the first that fell due first, or those that are named.
--
-- ARGV  1 claim id: the worker's name for this very question  2 worker  3 lease ms
--       4 ms until a fenced order is looked at again
--       5, 6 what a lost lease means: reason, ms until we ask (-1: a person)
--       7, 8 what a passed deadline after an unanswered attempt means: likewise
--       9 which handler, by address and promises
--       10 '1' if the question was asked before and its answer got lost
--       11 at most how many of those that are due; 0: those named by the rest of ARGV
--       12 the server's time after which the question is void: whoever asked has given it up ('': never)
-- Answers  {ms until more is due ('0': at once; '' nothing known), the time, for each order {id, …}}
--          {id, 'claimed', token, attempt, free, unanswered, deaths, expires ms, body}
--          {id, 'held'}: another worker sends it     {id, 'not_due', due ms}   {id, 'fenced', order id}
--          {id, 'expired'}   {id, 'in_doubt'}: its lease had run out, and nothing is sent
--          {id, 'ended', state}  {id, 'unknown'}  {id, 'broken', error}: put off

local CLAIM, WORKER, LEASE_MS, HANDLER = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[9]
local PUT_OFF_MS = 30000

local function claimed()
  return {ID, 'claimed', order.token, order.attempt, order.free, order.unanswered or '0',
          order.deaths or '0', order.expires, order.body}
end

-- Two that may both have rung do not wait for each other: the one that came first goes first.
local function came(id) return tonumber(redis.call('ZSCORE', KEY.orders, id) or 0) end
local function goes_first(other)
  if number('unanswered') == 0 then return true end
  return came(other) < came(ID) or (came(other) == came(ID) and other < ID)
end

local function doubt(rule, reason, wait)
  move('IN_DOUBT', {rule = rule, reason = reason, by = WORKER, wait = tonumber(wait)})
  return {ID, 'in_doubt'}
end

local function claim(id)
  open(id)
  if not order.state then
    zrem(KEY.queue)
    return {ID, 'unknown'}
  end
  if order.state == 'SENDING' then
    if order.claim == CLAIM then return claimed() end
    zrem(KEY.queue)
    if number('lease') > now then return {ID, 'held'} end
    put('unanswered', whole(number('unanswered') + 1))
    put('deaths', whole(number('deaths') + 1))
    return doubt('lease_ran_out', ARGV[5], ARGV[6])
  end
  if not WAITING[order.state] then
    zrem(KEY.queue)
    return {ID, 'ended', order.state}
  end
  if number('expires') <= now then
    if number('unanswered') > 0 then return doubt('overdue_after_unanswered', ARGV[7], ARGV[8]) end
    local last = order.reason and (', last: ' .. order.reason) or ''
    move('EXPIRED', {rule = 'deadline', by = WORKER,
                     reason = 'its deadline passed before it could be sent' .. last})
    return {ID, 'expired'}
  end
  if number('unanswered') > 0 and (order.handler or HANDLER) ~= HANDLER then
    return doubt('other_handler',
                 'the handler that may have rung is not the one of this worker, which cannot know', -1)
  end
  if number('due') > now then
    zadd(KEY.queue, number('due'))
    return {ID, 'not_due', order.due}
  end
  for _, other in ipairs(redis.call('SMEMBERS', PREFIX.fence .. order.destination)) do
    if other ~= ID and goes_first(other) then
      put('waits_for', other)
      wait_until(now + tonumber(ARGV[4]))
      save()
      return {ID, 'fenced', other}
    end
  end
  put('token', whole(number('token') + 1))
  put('attempt', whole(number('attempt') + 1))
  put('claim', CLAIM)
  put('handler', HANDLER)
  put('worker', WORKER)
  put('lease', whole(now + LEASE_MS))
  zadd(KEY.leases, now + LEASE_MS)
  move('SENDING', {rule = 'claimed', reason = 'attempt ' .. order.attempt, by = WORKER})
  return claimed()
end

local answers = {'', whole(now)}
if ARGV[12] ~= '' and now > tonumber(ARGV[12]) then
  answers[1] = '0'
  return answers
end

local function take(id)
  local done, answer = pcall(claim, id)
  if not done then
    drop()
    -- Whatever is wrong with it, the others wait behind it.
    zadd(KEY.queue, now + PUT_OFF_MS)
    local told = type(answer) == 'table' and answer.err or answer
    answer = {ID, 'broken', tostring(told)}
  end
  keep()
  answers[#answers + 1] = answer
end

if ARGV[10] == '1' then
  for _, id in ipairs(redis.call('ZRANGE', KEY.leases, 0, -1)) do
    if redis.call('HGET', PREFIX.record .. id, 'claim') == CLAIM then take(id) end
  end
end
local limit = tonumber(ARGV[11])
if limit == 0 then
  for at = 13, #ARGV do take(ARGV[at]) end
else
  local head = redis.call('ZRANGE', KEY.queue, 0, limit - 1, 'WITHSCORES')
  for i = 1, #head, 2 do
    local due = tonumber(head[i + 1])
    if due > now then
      soonest = math.min(soonest or due, due)
      break
    end
    take(head[i])
    if i + 1 == limit * 2 then soonest = now end
  end
  if soonest then answers[1] = whole(soonest - now) end
end
return answers
