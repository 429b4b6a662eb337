-- Puts a waiting order back into arq's queue if it has fallen out, whoever dropped it.
--
-- ARGV  1 id  2 arq's envelope
-- Answers  {'restored'}   {'in_order'}   {'unknown'}

open(ARGV[1])
if not order.state then return {'unknown'} end
if not WAITING[order.state] or redis.call('ZSCORE', KEY.queue, ID) then return {'in_order'} end
set(PREFIX.job .. ID, ARGV[2])
wait_until(number('due'))
save()
return {'restored'}
