-- Reads what a recoverer has to see to: leases that ran out, doubts whose time has come (put off, so
-- that two do not ask about the same order at once), and whether waiting orders are missing in arq's
-- queue.
--
-- ARGV  1 at most how many leases  2 at most how many doubts  3 put off by so many ms (0: as they are)
-- Answers  {ids of leases, ids of doubts, '1' if the queue is short,
--           ms until the next doubt is due ('' if none)}

local function due(key, limit)
  local ids, next_due = {}, nil
  if limit == 0 then return ids end
  local head = redis.call('ZRANGE', key, 0, limit - 1, 'WITHSCORES')
  for i = 1, #head, 2 do
    local at = tonumber(head[i + 1])
    if at > now then
      next_due = at
      break
    end
    ids[#ids + 1] = head[i]
  end
  return ids, next_due
end

local lost = due(KEY.leases, tonumber(ARGV[1]))
local doubts, next_doubt = due(KEY.doubts, tonumber(ARGV[2]))
for _, id in ipairs(doubts) do
  ID = id
  if tonumber(ARGV[3]) > 0 then zadd(KEY.doubts, now + tonumber(ARGV[3])) end
end
local waiting = 0
for state in pairs(WAITING) do waiting = waiting + redis.call('ZCARD', PREFIX.state .. state) end
local short = redis.call('ZCARD', KEY.queue) < waiting
return {lost, doubts, short and '1' or '0', next_doubt and whole(next_doubt - now) or ''}
