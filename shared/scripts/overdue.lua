-- Reads which ids of a sorted set are due by the server's clock, and puts them off, so that two
-- recoverers do not ask about the same order at once. Not about one order, so without the prelude.
--
-- KEYS  1 a sorted set of ids by milliseconds
-- ARGV  1 at most how many  2 put off by so many ms (0: leave as they are)
-- Answers  {id, id, …}

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
if tonumber(ARGV[2]) > 0 then
  for _, id in ipairs(ids) do
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), id)
  end
end
return ids
