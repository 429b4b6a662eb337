-- Lets a worker that is still at it hold its orders for longer.
--
-- ARGV  1 lease ms; then for each order  1 id  2 token
-- Answers, for each  'renewed'   'lost': somebody else has moved it, or it ended

local lease = now + tonumber(ARGV[1])
return each(2, 2, function(at)
  open(ARGV[at])
  if order.state ~= 'SENDING' or order.token ~= ARGV[at + 1] or number('lease') <= now then
    return 'lost'
  end
  put('lease', whole(lease))
  save()
  zadd(KEY.leases, lease)
  return 'renewed'
end)
