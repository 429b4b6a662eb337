-- A person gives a dead order another life: all its attempts, and as much time as it had at first.
-- What nobody knows about earlier attempts stays unknown.
--
-- ARGV  1 id  2 by whom  3 why  4 arq's envelope  5 the act's name
-- Answers  {'done', state}   {'not_dead', state}   {'unknown'}

open(ARGV[1])
if not order.state then return {'unknown'} end
local before = answered_before(ARGV[5])
if before then return before end
if order.state ~= 'DEAD' then return {'not_dead', order.state} end
put('cancel_wish', '')
put('free', order.attempt)
put('deaths', '0')
put('expires', whole(now + number('lifetime')))
set(PREFIX.job .. ID, ARGV[4])
move('QUEUED', {rule = 'requeued', reason = ARGV[3], by = ARGV[2]})
return answer_act(ARGV[5], {'done', order.state})
