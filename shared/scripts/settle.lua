-- Writes what became of one attempt: state, result and history in the same breath, and only if the
-- token is still the order's last. Lost is an ordinary answer.
--
-- A worker that was thought dead may come back with the truth: while the order is in doubt only
-- because that worker's lease ran out, and nobody was given a newer token, its answer still counts.
--
-- ARGV  2 token  3 to  4 rule  5 reason  6 call_sid or ''  7 wait ms (-1: none)
--       8 '1' if the attempt counts  9 '1' if it settles the fate of earlier attempts too
--       10 evidence (JSON)  11 by whom
-- Answers  {'done', state}   {'lost', state}   {'unknown'}

if not order.state then return {'unknown'} end
if order.settled == ARGV[2] then return {'done', order.state} end
if order.token ~= ARGV[2] then return {'lost', order.state} end

local late = order.state == 'IN_DOUBT' and order.rule == 'lease_ran_out'
if order.state ~= 'SENDING' and not late then return {'lost', order.state} end

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
move(ARGV[3], {rule = ARGV[4], reason = ARGV[5], call_sid = ARGV[6], wait = tonumber(ARGV[7]),
               evidence = ARGV[10], by = ARGV[11]})
return {'done', order.state}
