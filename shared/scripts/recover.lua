-- Settles an order whose lease ran out as in doubt: it may have been sent, and it is never sent blindly.
--
-- ARGV  1 id  2 reason  3 ms until we ask (-1: a person)  4 by whom
-- Answers  {'done'}   {'not_overdue', state}   {'unknown'}

open(ARGV[1])
if not order.state then
  zrem(KEY.leases)
  return {'unknown'}
end
if order.state ~= 'SENDING' or number('lease') > now then return {'not_overdue', order.state} end
put('unanswered', whole(number('unanswered') + 1))
put('deaths', whole(number('deaths') + 1))
move('IN_DOUBT', {rule = 'lease_ran_out', reason = ARGV[2], wait = tonumber(ARGV[3]), by = ARGV[4]})
return {'done'}
