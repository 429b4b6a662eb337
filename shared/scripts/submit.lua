-- Takes an order in: record, arq's job, arq's queue entry and the wake-up, in one step or not at all.
-- Sent again after a lost connection it changes nothing and says so.
--
-- ARGV  2 body (JSON)  3 digest  4 destination  5 owner  6 thread or ''  7 created ms  8 expires ms
--       9 arq's envelope  10 '1' if the sender then waits for its own write to be on disk
-- Answers  {'accepted'}  {'already_queued', state}  {'conflict', state}: same id, another wish

if order.state then
  if order.digest == ARGV[3] then
    -- The write that counts came over another connection: this one changes nothing, but comes later.
    if ARGV[10] == '1' then redis.call('HSET', KEY.record, 'digest', ARGV[3]) end
    return {'already_queued', order.state}
  end
  return {'conflict', order.state}
end
local lifetime = tonumber(ARGV[8]) - tonumber(ARGV[7])
local record = {body = ARGV[2], digest = ARGV[3], destination = ARGV[4], owner = ARGV[5],
                thread = ARGV[6], created = whole(now), lifetime = whole(lifetime),
                expires = ARGV[8], state = 'QUEUED', moved = whole(now), token = '0',
                attempt = '0', free = '0'}
for field, value in pairs(record) do put(field, value) end
redis.call('SET', KEY.job, ARGV[9])
redis.call('ZADD', KEY.orders, whole(now), ID)
redis.call('ZADD', STATE_PREFIX .. 'QUEUED', whole(now), ID)
wait_until(now)
save()
history('', 'QUEUED', {rule = 'submitted', reason = 'the person confirmed it', by = 'owner'})
redis.call('PUBLISH', MOVES, cjson.encode({{order_id = ID, state = 'QUEUED'}}))
return {'accepted'}
