-- Writes what became of attempts: state, result and history in the same breath, and only if the
-- token is still the order's last. Lost is an ordinary answer.
--
-- A worker that was thought dead may come back with the truth. While nobody was given a newer token,
-- its answer still counts if the order is in doubt only because that worker's lease ran out; and that
-- a call was placed counts even if the order waits to be sent again. If it has ended meanwhile, it
-- stays as it ended, but never again without the word that it rang.
--
-- ARGV  1 by whom; then for each attempt
--       1 id  2 token  3 to  4 rule  5 reason  6 call_sid or ''  7 wait ms (-1: none)
--       8 '1' if the attempt counts  9 '1' if it settles the fate of earlier attempts too
--       10 evidence (JSON)
-- Answers, for each  {'done', state}   {'lost', state}   {'unknown'}

return each(2, 10, function(at)
  local _, token, to, rule, reason, call_sid, wait, counts, clears, evidence = unpack(ARGV, at, at + 9)
  local note = {rule = rule, reason = reason, call_sid = call_sid, evidence = evidence, by = ARGV[1]}
  open(ARGV[at])
  if not order.state then return {'unknown'} end
  if token == '0' then return {'lost', order.state} end  -- nobody was ever given this token
  if order.settled == token then return {'done', order.state} end
  if order.token ~= token then return {'lost', order.state} end

  local late = order.state == 'IN_DOUBT' and order.rule == 'lease_ran_out'
  local rang = to == 'PLACED'
  if rang and ENDED[order.state] then
    put('settled', token)
    put('unanswered', whole(number('unanswered') + 1))
    if call_sid ~= '' then put('call_sid', call_sid) end
    put('rule', 'rang_after_all')
    put('reason', 'a late answer says that it rang')
    note.rule, note.reason = order.rule, order.reason
    history(order.state, order.state, note)
    save()
    if not order.forgotten then answer_with(order.state) end
    return {'lost', order.state}
  end
  local news = rang and (order.state == 'IN_DOUBT' or WAITING[order.state])
  if order.state ~= 'SENDING' and not late and not news then return {'lost', order.state} end

  -- That it does not know either is what was assumed when it was not heard of.
  if late and to == 'IN_DOUBT' then return {'done', order.state} end

  put('settled', token)
  if late then
    put('unanswered', whole(number('unanswered') - 1))
    put('deaths', whole(number('deaths') - 1))
  elseif to == 'IN_DOUBT' then
    put('unanswered', whole(number('unanswered') + 1))
  end
  if counts ~= '1' then put('free', whole(number('free') + 1)) end
  if clears == '1' then put('unanswered', '0') end
  local becomes = wished(to)
  note.wait = becomes == to and tonumber(wait) or -1
  if becomes == 'IN_DOUBT' and order.state == becomes then
    history(becomes, becomes, note)
    save()
    mind_the_fence(becomes)
  else
    move(becomes, note)
  end
  return {'done', order.state}
end)
