-- Puts a waiting order back into arq's queue if it has fallen out, whoever dropped it.
--
-- ARGV  2 arq's envelope
-- Answers  {'restored'}   {'in_order'}   {'unknown'}

if not order.state then return {'unknown'} end
if not WAITING[order.state] or redis.call('ZSCORE', KEY.queue, ID) then return {'in_order'} end
redis.call('SET', KEY.job, ARGV[2])
wait_until(number('due'))
save()
return {'restored'}
