-- Forgets the details of orders that ended: those that ended long ago, and the oldest of those that
-- are too many. What was asked for and said goes; what stays, for as long as the same order could be
-- handed in again, is its id, what became of it and its call. Orders that need a person are kept.
--
-- ARGV  1 ms after which an order's details are forgotten  2 how many may keep theirs
--       3 ms for which the id is kept after that, and after the order's own deadline
--       4 at most how many are forgotten now
-- Answers  how many were

local FINAL = {'PLACED', 'REFUSED', 'CANCELLED', 'EXPIRED'}
local KEPT = {'state', 'digest', 'owner', 'thread', 'created', 'expires', 'moved', 'token', 'attempt',
              'free', 'unanswered', 'rule', 'call_sid'}
local limit, too_many = tonumber(ARGV[4]), -tonumber(ARGV[2])

local oldest = {}
for _, state in ipairs(FINAL) do
  too_many = too_many + redis.call('ZCARD', PREFIX.state .. state)
  local head = redis.call('ZRANGE', PREFIX.state .. state, 0, limit - 1, 'WITHSCORES')
  for i = 1, #head, 2 do
    oldest[#oldest + 1] = {id = head[i], state = state, ended = tonumber(head[i + 1])}
  end
end
table.sort(oldest, function(one, other) return one.ended < other.ended end)

local function forget(id, state)
  open(id)
  zrem(KEY.orders)
  zrem(PREFIX.state .. state)
  if not order.state then return end
  local until_ms = whole(math.max(now, number('expires')) + tonumber(ARGV[3]))
  redis.call('PEXPIREAT', PREFIX.result .. id, until_ms)  -- somebody may still be waiting for it
  if order.call_sid and redis.call('GET', PREFIX.call .. order.call_sid) == id then
    del(PREFIX.call .. order.call_sid)
  end
  local words = {'forgotten', '1'}
  for _, field in ipairs(KEPT) do
    if order[field] then
      words[#words + 1] = field
      words[#words + 1] = order[field]
    end
  end
  redis.call('DEL', PREFIX.record .. id)
  redis.call('HSET', PREFIX.record .. id, unpack(words))
  redis.call('PEXPIREAT', PREFIX.record .. id, until_ms)
end

local forgotten = 0
for i, ended in ipairs(oldest) do
  if i > limit or (ended.ended > now - tonumber(ARGV[1]) and i > too_many) then break end
  forget(ended.id, ended.state)
  keep()
  forgotten = forgotten + 1
end
return forgotten
