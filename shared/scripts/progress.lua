-- Reads one order as it stands, with the server's time and its place in arq's queue.
--
-- ARGV  1 id
-- Answers  {now ms, field, value, field, value, …}   {} if there is no such order

open(ARGV[1])
if not order.state then return {} end
local answer = {whole(now)}
for _, field in ipairs({'state', 'body', 'call_sid', 'rule', 'reason', 'attempt', 'free', 'unanswered',
                        'deaths', 'token', 'worker', 'owner', 'thread', 'created', 'expires', 'moved',
                        'due', 'lease', 'waits_for', 'handler', 'cancel_wish'}) do
  if order[field] then
    answer[#answer + 1] = field
    answer[#answer + 1] = order[field]
  end
end
return answer
