-- Takes an order back while that is still true: before it is being sent. Where it is too late to be
-- sure, the wish is kept, and the order is not sent again.
--
-- ARGV  1 id  2 by whom  3 why  4 the act's name
--       5 '1': an order that was never handed in is held back for good, should it still arrive
-- Answers  {'cancelled'}: it never rang and never will
--          {'sending'}: it is with the handler now      {'in_doubt'}: it may have rung
--          {'ended', state}: too late, or never needed  {'unknown'}

local LONGEST_LIFE_MS = 31 * 24 * 3600 * 1000  -- of any order: shared/order.py

open(ARGV[1])
if not order.state and ARGV[5] == '1' then
  for field, value in pairs({digest = 'held back', destination = '', owner = ARGV[2], thread = '',
                             created = whole(now), expires = whole(now + LONGEST_LIFE_MS), lifetime = '0',
                             state = 'CANCELLED', moved = whole(now), token = '0', attempt = '0',
                             free = '0', rule = 'held_back', reason = ARGV[3]}) do
    put(field, value)
  end
  zadd(KEY.orders, now)
  zadd(PREFIX.state .. 'CANCELLED', now)
  answer_with('CANCELLED')
  history('', 'CANCELLED', {rule = 'held_back', reason = ARGV[3], by = ARGV[2]})
  return answer_act(ARGV[4], {'cancelled'})
end
if not order.state then return {'unknown'} end
local before = answered_before(ARGV[4])
if before then return before end

local waits = WAITING[order.state]
if waits and number('unanswered') == 0 then
  move('CANCELLED', {rule = 'cancelled', reason = ARGV[3], by = ARGV[2]})
  return answer_act(ARGV[4], {'cancelled'})
end
if not waits and order.state ~= 'SENDING' and order.state ~= 'IN_DOUBT' then
  return {'ended', order.state}
end

put('cancel_wish', ARGV[3])
local answer = {order.state == 'SENDING' and 'sending' or 'in_doubt'}
if waits then
  move('IN_DOUBT', {rule = 'cancelled_after_unanswered', reason = ARGV[3], by = ARGV[2], wait = -1})
else
  history(order.state, order.state, {rule = 'cancel_wished', reason = ARGV[3], by = ARGV[2]})
end
return answer_act(ARGV[4], answer)
