-- Writes what became of one attempt: state, result and history in the same breath, and only if the
-- token is still the order's last. Lost is an ordinary answer.
--
-- A worker that was thought dead may come back with the truth. While nobody was given a newer token,
-- its answer still counts if the order is in doubt only because that worker's lease ran out; and that
-- a call was placed counts even if the order waits to be sent again. If it has ended meanwhile, it
-- stays as it ended, but never again without the word that it rang.
--
-- ARGV  2 token  3 to  4 rule  5 reason  6 call_sid or ''  7 wait ms (-1: none)
--       8 '1' if the attempt counts  9 '1' if it settles the fate of earlier attempts too
--       10 evidence (JSON)  11 by whom
-- Answers  {'done', state}   {'lost', state}   {'unknown'}

if not order.state then return {'unknown'} end
if ARGV[2] == '0' then return {'lost', order.state} end  -- nobody was ever given this token
if order.settled == ARGV[2] then return {'done', order.state} end
if order.token ~= ARGV[2] then return {'lost', order.state} end

local late = order.state == 'IN_DOUBT' and order.rule == 'lease_ran_out'
local rang = ARGV[3] == 'PLACED'
if rang and ENDED[order.state] then
  put('settled', ARGV[2])
  put('unanswered', whole(number('unanswered') + 1))
  if ARGV[6] ~= '' then put('call_sid', ARGV[6]) end
  put('rule', 'rang_after_all')
  put('reason', 'a late answer says that it rang')
  save()
  answer_with(order.state)
  history(order.state, order.state, {rule = order.rule, reason = order.reason,
                                     evidence = ARGV[10], by = ARGV[11]})
  return {'lost', order.state}
end
local news = rang and (order.state == 'IN_DOUBT' or WAITING[order.state])
if order.state ~= 'SENDING' and not late and not news then return {'lost', order.state} end

-- That it does not know either is what was assumed when it was not heard of.
if late and ARGV[3] == 'IN_DOUBT' then return {'done', order.state} end

put('settled', ARGV[2])
if late then
  put('unanswered', whole(number('unanswered') - 1))
  put('deaths', whole(number('deaths') - 1))
elseif ARGV[3] == 'IN_DOUBT' then
  put('unanswered', whole(number('unanswered') + 1))
end
if ARGV[8] ~= '1' then put('free', whole(number('free') + 1)) end
if ARGV[9] == '1' then put('unanswered', '0') end
local to = wished(ARGV[3])
local wait = to == ARGV[3] and tonumber(ARGV[7]) or -1
local note = {rule = ARGV[4], reason = ARGV[5], call_sid = ARGV[6], wait = wait,
              evidence = ARGV[10], by = ARGV[11]}
if to == 'IN_DOUBT' and order.state == to then
  save()
  mind_the_fence(to)
  history(to, to, note)
else
  move(to, note)
end
return {'done', order.state}
