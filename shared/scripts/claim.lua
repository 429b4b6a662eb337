-- Gives one worker, and no other, the right to send the order until its lease runs out.
--
-- ARGV  2 claim id: the worker's name for this very question; asked again, it is answered again
--       3 worker  4 lease ms  5 ms until a fenced order is looked at again
--       6, 7 what a lost lease means: reason, ms until we ask (-1: a person)
--       8, 9 what a passed deadline after an unanswered attempt means: likewise
--       10 which handler, by address and promises
-- Answers  {'claimed', token, attempt, free, unanswered, deaths, expires ms, body}
--          {'held'}: another worker sends it     {'not_due', due ms}     {'fenced', order id}
--          {'expired'}   {'in_doubt'}: its lease had run out, and nothing is sent
--          {'ended', state}                      {'unknown'}

if not order.state then
  redis.call('ZREM', KEY.queue, ID)
  return {'unknown'}
end

local function claimed()
  return {'claimed', order.token, order.attempt, order.free, order.unanswered or '0',
          order.deaths or '0', order.expires, order.body}
end

if order.state == 'SENDING' then
  if order.claim == ARGV[2] then return claimed() end
  redis.call('ZREM', KEY.queue, ID)
  if number('lease') > now then return {'held'} end
  put('unanswered', whole(number('unanswered') + 1))
  put('deaths', whole(number('deaths') + 1))
  move('IN_DOUBT', {rule = 'lease_ran_out', reason = ARGV[6], by = ARGV[3], wait = tonumber(ARGV[7])})
  return {'in_doubt'}
end

if not WAITING[order.state] then
  redis.call('ZREM', KEY.queue, ID)
  return {'ended', order.state}
end

if number('expires') <= now then
  if number('unanswered') > 0 then
    move('IN_DOUBT', {rule = 'overdue_after_unanswered', reason = ARGV[8], by = ARGV[3],
                      wait = tonumber(ARGV[9])})
    return {'in_doubt'}
  end
  local last = order.reason and (', last: ' .. order.reason) or ''
  move('EXPIRED', {rule = 'deadline', reason = 'its deadline passed before it could be sent' .. last,
                   by = ARGV[3]})
  return {'expired'}
end

if number('unanswered') > 0 and (order.handler or ARGV[10]) ~= ARGV[10] then
  move('IN_DOUBT', {rule = 'other_handler', by = ARGV[3], wait = -1, reason =
    'the handler that may have rung is not the one of this worker, which cannot know'})
  return {'in_doubt'}
end

if number('due') > now then
  redis.call('ZADD', KEY.queue, order.due, ID)
  return {'not_due', order.due}
end

-- Two that may both have rung do not wait for each other: the one that came first goes first.
local function came(id) return tonumber(redis.call('ZSCORE', KEY.orders, id) or 0) end
local function goes_first(other)
  if number('unanswered') == 0 then return true end
  return came(other) < came(ID) or (came(other) == came(ID) and other < ID)
end

for _, other in ipairs(redis.call('SMEMBERS', FENCE_PREFIX .. order.destination)) do
  if other ~= ID and goes_first(other) then
    put('waits_for', other)
    wait_until(now + tonumber(ARGV[5]))
    save()
    return {'fenced', other}
  end
end

put('token', whole(number('token') + 1))
put('attempt', whole(number('attempt') + 1))
put('claim', ARGV[2])
put('handler', ARGV[10])
put('worker', ARGV[3])
put('lease', whole(now + tonumber(ARGV[4])))
move('SENDING', {rule = 'claimed', reason = 'attempt ' .. order.attempt, by = ARGV[3]})
redis.call('ZADD', KEY.leases, order.lease, ID)
return claimed()
