-- Takes orders in: record, arq's job, arq's queue entry and the wake-up, in one step or not at all.
-- Sent again after a lost connection it changes nothing and says so.
--
-- ARGV  1 '1' if the sender then waits for its own write to be on disk; then for each order
--       1 id  2 body (JSON)  3 digest  4 destination  5 owner  6 thread or ''  7 created ms
--       8 expires ms  9 arq's envelope
-- Answers, for each  {'accepted'}  {'already_queued', state}  {'conflict', state}: same id, other wish

return each(2, 9, function(at)
  local _, body, digest, destination, owner, thread, created, expires, envelope = unpack(ARGV, at, at + 8)
  open(ARGV[at])
  if order.state then
    if order.digest ~= digest then return {'conflict', order.state} end
    -- The write that counts came over another connection: this one changes nothing, but comes later.
    if ARGV[1] == '1' and not pcall(redis.call, 'HSET', PREFIX.record .. ID, 'digest', digest) then
      return {'already_queued', order.state, 'unmarked'}
    end
    return {'already_queued', order.state}
  end
  put('body', body)
  put('digest', digest)
  put('destination', destination)
  put('owner', owner)
  put('thread', thread)
  put('created', whole(now))
  put('lifetime', whole(tonumber(expires) - tonumber(created)))
  put('expires', expires)
  put('state', 'QUEUED')
  put('moved', whole(now))
  put('token', '0')
  put('attempt', '0')
  put('free', '0')
  wait_until(now)
  history('', 'QUEUED', {rule = 'submitted', reason = 'the person confirmed it', by = 'owner'})
  save()
  set(PREFIX.job .. ID, envelope)
  zadd(KEY.orders, now)
  zadd(PREFIX.state .. 'QUEUED', now)
  tell('QUEUED')
  return {'accepted'}
end)
