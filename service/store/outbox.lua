-- The outbox in Valkey; service/store/shared_entries.py says what it is for. Every key has the hash tag of KEYS[1].
--
--   e:<id>                a hash: the entry
--   lane:<lane>           a list of ids: the queued entries of a customer, in order; only the first may be sent
--   due:<kind>:<app>      a sorted set of ids by the time of their next try; shelves: the names of these
--   stream                what is being sent, by whom: a message is an entry's id, pending for one consumer
--   dead                  a stream of dead letters
--   wait:<openId>         a set of ids that wait for an open
--   by:<whose>            a set of ids by the install or open that they are forgotten with
--   queued|delivered|gone:<kind>   sorted sets of ids by when they were made
local P = KEYS[1] .. ':'
local GROUP = 'firstopen'
local TTL = 90 * 86400
local KINDS = {'open', 'lead', 'sale'}
local call = redis.call

local function lasting(key) call('EXPIRE', key, TTL) end
local function entry(id) return P .. 'e:' .. id end
local function field(id, name) return call('HGET', entry(id), name) end

local function group()
  if call('EXISTS', P .. 'stream') == 0 then
    call('XGROUP', 'CREATE', P .. 'stream', GROUP, '0', 'MKSTREAM')
  end
end

-- Let the first of a lane be tried when its time comes (also if it waits: what lets it go may be missed),
-- unless somebody is at it.
local function ready(id)
  local e = call('HMGET', entry(id), 'app', 'kind', 'next_try', 'msg')
  if e[1] and not e[4] then
    local shelf = e[2] .. ':' .. e[1]
    call('SADD', P .. 'shelves', shelf)
    lasting(P .. 'shelves')
    call('ZADD', P .. 'due:' .. shelf, e[3], id)
    lasting(P .. 'due:' .. shelf)
  end
end

local function next_of(lane)
  local id = call('LINDEX', P .. 'lane:' .. lane, 0)
  if id then ready(id) end
end

-- Put an entry into the stream, and into this consumer's hands.
local function take(id, consumer)
  local message = call('XADD', P .. 'stream', '*', 'id', id)
  call('XREADGROUP', 'GROUP', GROUP, consumer, 'STREAMS', P .. 'stream', '>')
  call('HSET', entry(id), 'msg', message)
  lasting(P .. 'stream')
end

local function let_go(id)
  local message = field(id, 'msg')
  if message then
    call('XACK', P .. 'stream', GROUP, message)
    call('XDEL', P .. 'stream', message)
    call('HDEL', entry(id), 'msg')
  end
end

local function unlist(id)
  local e = call('HMGET', entry(id), 'app', 'kind', 'lane', 'waits_for')
  let_go(id)
  call('ZREM', P .. 'due:' .. e[2] .. ':' .. e[1], id)
  call('LREM', P .. 'lane:' .. e[3], 1, id)
  call('ZREM', P .. 'queued:' .. e[2], id)
  if e[4] ~= '' then call('SREM', P .. 'wait:' .. e[4], id) end
  return e[3]
end

local function remove(id)
  if not field(id, 'lane') then return 0 end
  local state, kind, whose = field(id, 'state'), field(id, 'kind'), field(id, 'whose')
  local lane = unlist(id)
  call('ZREM', P .. 'delivered:' .. kind, id)
  call('ZREM', P .. 'gone:' .. kind, id)
  call('DEL', entry(id))
  if whose and whose ~= '' then call('SREM', P .. 'by:' .. whose, id) end
  if state == 'queued' then next_of(lane) end
  return 1
end

local function bury(id, reason, now)
  local lane = unlist(id)
  local e = call('HMGET', entry(id), 'kind', 'created', 'app')
  local message = call('XADD', P .. 'dead', 'MAXLEN', '~', 100000, '*', 'id', id, 'kind', e[1], 'app', e[3], 'reason', reason)
  call('HSET', entry(id), 'state', 'dead', 'reason', reason, 'next_try', now, 'dead', message)
  call('ZADD', P .. 'gone:' .. e[1], e[2], id)
  lasting(P .. 'gone:' .. e[1])
  lasting(entry(id))
  lasting(P .. 'dead')
  next_of(lane)
end

local function queue(id, lane, kind, created)
  call('RPUSH', P .. 'lane:' .. lane, id)
  lasting(P .. 'lane:' .. lane)
  call('ZADD', P .. 'queued:' .. kind, created, id)
  lasting(P .. 'queued:' .. kind)
  lasting(entry(id))
end

local function told(id)
  return call('HMGET', entry(id), 'id', 'app', 'kind', 'lane', 'waits_for', 'created', 'next_try', 'attempts', 'whose', 'sealed')
end

local ops = {}

function ops.add(how, consumer, id, app, kind, lane, waits_for, created, next_try, attempts, whose, sealed)
  group()
  local earlier = call('LLEN', P .. 'lane:' .. lane) > 0
  if how == 'move' and field(id, 'state') == 'refused' then call('DEL', entry(id)) end
  if call('EXISTS', entry(id)) == 1 then return call('LINDEX', P .. 'lane:' .. lane, 0) ~= id and 1 or 0 end
  call('HSET', entry(id), 'id', id, 'app', app, 'kind', kind, 'lane', lane, 'waits_for', waits_for, 'created', created,
    'next_try', next_try, 'attempts', attempts, 'whose', whose, 'sealed', sealed, 'state', 'queued', 'reason', '')
  if how == 'move' then call('HSET', entry(id), 'moved', 1) end
  queue(id, lane, kind, created)
  if waits_for ~= '' then
    call('SADD', P .. 'wait:' .. waits_for, id)
    lasting(P .. 'wait:' .. waits_for)
  end
  if whose ~= '' then
    call('SADD', P .. 'by:' .. whose, id)
    lasting(P .. 'by:' .. whose)
  end
  if not earlier then
    if how == 'add' and waits_for == '' then take(id, consumer) else ready(id) end
  end
  return earlier and 1 or 0
end

-- Take what nobody is at any more, and what is due: so many of each kind; ``...`` are the shelves held back.
function ops.due(consumer, rooms, now, limit, idle_ms, ...)
  group()
  local held, room, out = {}, {}, {}
  for kind, most in string.gmatch(rooms, '(%a+):(%d+)') do room[kind] = tonumber(most) end
  for _, shelf in ipairs({...}) do held[shelf] = true end
  local cursor = call('GET', P .. 'cursor') or '0-0'
  local found = call('XAUTOCLAIM', P .. 'stream', GROUP, consumer, idle_ms, cursor, 'COUNT', limit)
  call('SET', P .. 'cursor', found[1], 'EX', TTL)
  for _, message in ipairs(found[2]) do
    local id = message[2] and message[2][2]
    if id and field(id, 'msg') == message[1] and field(id, 'state') == 'queued' then
      out[#out + 1] = told(id)
    else
      call('XACK', P .. 'stream', GROUP, message[1])
      call('XDEL', P .. 'stream', message[1])
    end
  end
  for _, shelf in ipairs(call('SMEMBERS', P .. 'shelves')) do
    local kind = string.match(shelf, '^%a+')
    local left = room[kind] or 0
    if not held[shelf] and left > 0 then
      for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due:' .. shelf, '-inf', now, 'LIMIT', 0, left)) do
        call('ZREM', P .. 'due:' .. shelf, id)
        if field(id, 'state') == 'queued' and not field(id, 'msg') then
          take(id, consumer)
          out[#out + 1] = told(id)
          room[kind] = room[kind] - 1
        end
      end
    end
  end
  return out
end

-- Say that this consumer is still at these; return those that are somebody else's, or nobody's, by now.
function ops.beat(consumer, ...)
  group()
  local lost = {}
  for _, id in ipairs({...}) do
    local message = field(id, 'msg')
    local holder = message and call('XPENDING', P .. 'stream', GROUP, message, message, 1)[1]
    if holder and holder[2] == consumer then
      call('XCLAIM', P .. 'stream', GROUP, consumer, 0, message, 'JUSTID')
    else
      lost[#lost + 1] = id
    end
  end
  return lost
end

-- Let go of what is in this consumer's hands.
function ops.set_down(consumer, ...)
  group()
  for _, id in ipairs({...}) do
    local message = field(id, 'msg')
    local holder = message and call('XPENDING', P .. 'stream', GROUP, message, message, 1)[1]
    if holder and holder[2] == consumer then
      let_go(id)
      ready(id)
    end
  end
  return 0
end

function ops.leave(consumer)
  group()
  if #call('XPENDING', P .. 'stream', GROUP, '-', '+', 1, consumer) == 0 then
    call('XGROUP', 'DELCONSUMER', P .. 'stream', GROUP, consumer)
  end
  return 0
end

-- Make due what waits for nothing but Dub; Dub's own time is kept.
function ops.hasten(now, limit)
  local hastened = 0
  for _, shelf in ipairs(call('SMEMBERS', P .. 'shelves')) do
    for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due:' .. shelf, '(' .. now, '+inf', 'LIMIT', 0, limit)) do
      local e = call('HMGET', entry(id), 'waits_for', 'reason')
      if e[1] == '' and string.sub(e[2], 1, 12) ~= 'DubThrottled' then
        call('HSET', entry(id), 'next_try', now)
        call('ZADD', P .. 'due:' .. shelf, now, id)
        hastened = hastened + 1
      end
    end
  end
  return hastened >= tonumber(limit) and 1 or 0
end

function ops.release(open_id, now)
  for _, id in ipairs(call('SMEMBERS', P .. 'wait:' .. open_id)) do
    if field(id, 'state') == 'queued' then
      call('HSET', entry(id), 'waits_for', '', 'next_try', now)
      if call('LINDEX', P .. 'lane:' .. field(id, 'lane'), 0) == id then ready(id) end
    end
  end
  call('DEL', P .. 'wait:' .. open_id)
  return 0
end

function ops.put_off(id, next_try, reason)
  if field(id, 'state') ~= 'queued' then return 0 end
  let_go(id)
  call('HINCRBY', entry(id), 'attempts', 1)
  call('HSET', entry(id), 'next_try', next_try, 'reason', reason)
  if call('LINDEX', P .. 'lane:' .. field(id, 'lane'), 0) == id then ready(id) end
  return 1
end

function ops.finish(id, state, reason, now)
  if field(id, 'state') ~= 'queued' then return 0 end
  local kind = field(id, 'kind')
  if state == 'dead' then
    bury(id, reason, now)
  elseif kind == 'open' then
    remove(id)
  else
    local lane = unlist(id)
    call('HSET', entry(id), 'state', state, 'reason', reason, 'next_try', now)
    call('HDEL', entry(id), 'sealed')
    call('ZADD', P .. 'delivered:' .. kind, field(id, 'created'), id)
    lasting(P .. 'delivered:' .. kind)
    next_of(lane)
  end
  return 1
end

function ops.remove(id) return remove(id) end

-- Note what became of an entry that was kept elsewhere while this server was away.
function ops.settled(consumer, state, reason, now, id, ...)
  ops.add('move', consumer, id, ...)
  return ops.finish(id, state, reason, now)
end

-- Forget an entry whose caller was told that it failed, and refuse it if it comes after all; unless its keeper
-- has moved it here since.
function ops.refuse(id)
  if field(id, 'moved') then return 0 end
  remove(id)
  call('HSET', entry(id), 'state', 'refused')
  call('EXPIRE', entry(id), 3600)
  return 0
end

function ops.drop(id)
  if field(id, 'kind') == 'open' and field(id, 'state') == 'queued' then return remove(id) end
  return 0
end

function ops.forget(...)
  local forgotten = 0
  for _, whose in ipairs({...}) do
    for _, id in ipairs(call('SMEMBERS', P .. 'by:' .. whose)) do forgotten = forgotten + remove(id) end
    call('DEL', P .. 'by:' .. whose)
  end
  return forgotten
end

-- Bury and forget so many of each kind and state; return how many died, and whether there may be more.
function ops.expire(before, bury_before, now, limit)
  local died, more = 0, 0
  local function old(set, than)
    local ids = call('ZRANGEBYSCORE', P .. set, '-inf', '(' .. than, 'LIMIT', 0, limit)
    if #ids >= tonumber(limit) then more = 1 end
    return ids
  end
  for _, kind in ipairs(KINDS) do
    for _, id in ipairs(old('queued:' .. kind, before)) do
      if field(id, 'state') == 'queued' then
        local e = call('HMGET', entry(id), 'waits_for', 'reason')
        local no_open = string.sub(e[1], 1, 8) == 'install:' and (e[2] == '' or string.sub(e[2], 1, 7) == 'NoOpen:')
        bury(id, no_open and 'no open arrived' or 'expired: ' .. e[2], now)
        died = died + 1
      end
      call('ZREM', P .. 'queued:' .. kind, id)
    end
    for _, id in ipairs(old('delivered:' .. kind, before)) do
      remove(id)
      call('ZREM', P .. 'delivered:' .. kind, id)
    end
    for _, id in ipairs(old('gone:' .. kind, bury_before)) do
      remove(id)
      call('ZREM', P .. 'gone:' .. kind, id)
    end
  end
  return {died, more}
end

function ops.revive(id, now)
  if field(id, 'state') ~= 'dead' or not field(id, 'sealed') then return 0 end
  local e = call('HMGET', entry(id), 'kind', 'lane', 'dead')
  call('ZREM', P .. 'gone:' .. e[1], id)
  call('XDEL', P .. 'dead', e[3])
  call('HDEL', entry(id), 'dead')
  call('HSET', entry(id), 'state', 'queued', 'attempts', 0, 'waits_for', '', 'created', now, 'next_try', now)
  queue(id, e[2], e[1], now)
  if call('LINDEX', P .. 'lane:' .. e[2], 0) == id then ready(id) end
  return 1
end

return ops[ARGV[1]](unpack(ARGV, 2))
