-- Takes an order back while that is still true: before it is being sent.
--
-- ARGV  2 by whom  3 why
-- Answers  {'cancelled'}: it never rang and never will
--          {'sending'}: it is with the handler now      {'in_doubt'}: it may have rung
--          {'ended', state}: too late, or never needed  {'unknown'}

if not order.state then return {'unknown'} end
if order.state == 'SENDING' then return {'sending'} end
if order.state == 'IN_DOUBT' then return {'in_doubt'} end
if not WAITING[order.state] then return {'ended', order.state} end
if number('unanswered') > 0 then
  move('IN_DOUBT', {rule = 'cancelled_after_unanswered', reason = ARGV[3], by = ARGV[2], wait = -1})
  return {'in_doubt'}
end
move('CANCELLED', {rule = 'cancelled', reason = ARGV[3], by = ARGV[2]})
return {'cancelled'}
