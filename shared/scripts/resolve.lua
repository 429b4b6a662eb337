-- Clears a doubt, or puts off asking about it. The recoverer names the token it asked about, so that
-- an answer about an earlier attempt never speaks for a later one; a person's word is about the
-- attempt that was in doubt when it was said.
--
-- ARGV  1 id  2 token  3 to (IN_DOUBT: still unknown)  4 rule  5 reason  6 call_sid or ''
--       7 wait ms (-1: none)  8 not used  9 '1' if every earlier attempt is settled by it
--       10 evidence (JSON or '')  11 by whom  12 the act's name or ''
-- Answers  {'done', state}   {'moved_on', state}   {'unknown'}

open(ARGV[1])
if not order.state then return {'unknown'} end
local before = answered_before(ARGV[12])
if before then return before end
if order.state ~= 'IN_DOUBT' then return {'moved_on', order.state} end
if order.token ~= ARGV[2] then return {'moved_on', order.state} end

if ARGV[9] == '1' then put('unanswered', '0') end
local to = wished(ARGV[3])
local wait = to == ARGV[3] and tonumber(ARGV[7]) or -1
if to == 'IN_DOUBT' then
  put('reason', ARGV[5])
  mind_the_fence('IN_DOUBT')
  if wait >= 0 then
    zadd(KEY.doubts, now + wait)
  else
    zrem(KEY.doubts)
    history('IN_DOUBT', 'IN_DOUBT', {rule = ARGV[4], reason = ARGV[5], evidence = ARGV[10], by = ARGV[11]})
  end
  save()
  return {'done', 'IN_DOUBT'}
end
move(to, {rule = ARGV[4], reason = ARGV[5], call_sid = ARGV[6], wait = wait,
          evidence = ARGV[10], by = ARGV[11]})
return answer_act(ARGV[12], {'done', order.state})
