-- Balances upstreams whose servers change at run time, and serves the HTTP interface that changes them.
--
-- Needs Debian's libnginx-mod-http-lua (lua-resty-core comes with it); dynamic-upstream.conf shows how it is
-- included. The interface is that of ngx_dynamic_upstream, answer by answer; only IP addresses are taken.
--
-- The state is kept in the shared dictionary `dynamic_upstream`, which survives a reload of nginx but not a
-- restart. It starts from the upstream's file in agentd's tree. When a worker starts and that file has
-- changed since, the file decides which servers there are, and the dictionary which of them are down.
--
-- Keys:  peers:ZONE    the servers, one per line, as the verbose list has them
--        file:ZONE     the servers in the file when it was last read
--        version:ZONE  grows with every change; workers parse again when theirs is older
--        zones         all zones seen, one per line
--        fails:ZONE:SERVER, dead:ZONE:SERVER, trouble:ZONE    passive failures; they expire
--        lock:ZONE     held while peers:ZONE is changed

local balancer = require "ngx.balancer"

local _M = {}
local dict = ngx.shared.dynamic_upstream
local directory
local started = false
local cache = {} -- zone -> { version, primary = { server... }, backup = { server... } }

local LOCK_SECONDS = 2 -- after which the lock of a worker that died is free
local MOST_TRIES = 20
local NOT_FOUND = 2 -- ENOENT
local NO_LIVE_SERVER = -3 -- NGX_BUSY: nginx says "no live upstreams" and answers 502

-- ------------------------------------------------------------------ servers as text

-- Parse one "server ..." line, from a file or a list; nil for anything else.
local function parse_line(line)
    local address, rest = (line:match("^%s*server%s+([^;]+);") or ""):match("^(%S+)(.*)$")
    if not address then
        return nil
    end
    local host, port = address:match("^(%d+%.%d+%.%d+%.%d+):(%d+)$")
    if not host then
        host, port = address:match("^(%[[%x:%.]+%]):(%d+)$")
    end
    if not host or tonumber(port) < 1 or tonumber(port) > 65535 then
        return nil
    end
    local words = {}
    for word in rest:gmatch("%S+") do
        local name, value = word:match("^([a-z_]+)=(%d+)s?$")
        words[name or word] = tonumber(value) or true
    end
    return {
        address = address, host = host, port = tonumber(port),
        weight = math.max(words.weight or 1, 1), max_fails = words.max_fails or 1,
        fail_timeout = words.fail_timeout or 10,
        backup = words.backup or false, down = words.down or false,
    }
end

local function parse(text)
    local servers, by_address = {}, {}
    for line in text:gmatch("[^\n]+") do
        local server = parse_line(line)
        if server and not by_address[server.address] then
            servers[#servers + 1] = server
            by_address[server.address] = server
        end
    end
    return servers, by_address
end

local function line_of(server, verbose)
    local numbers = ""
    if verbose then
        numbers = string.format(
            " weight=%d max_fails=%d fail_timeout=%d", server.weight, server.max_fails, server.fail_timeout)
    end
    local marks = (server.backup and " backup" or "") .. (server.down and " down" or "")
    return "server " .. server.address .. numbers .. marks .. ";\n"
end

local function dump(servers)
    local lines = {}
    for at, server in ipairs(servers) do
        lines[at] = line_of(server, true)
    end
    return table.concat(lines)
end

-- The servers in the file of a zone, or nil if there is none (or the zone's name is not a file name).
local function read_file(zone)
    if not (directory and zone:match("^%w[%w_.-]*$")) then
        return nil
    end
    local file, reason, code = io.open(directory .. "/" .. zone .. ".conf")
    if not file then
        if code ~= NOT_FOUND then
            ngx.log(ngx.ERR, "workers cannot read the file of an upstream: ", reason)
        end
        return nil
    end
    local lines, inside = {}, false
    for line in file:lines() do
        if inside and line:match("^}") then
            break
        elseif inside then
            lines[#lines + 1] = line
        end
        inside = inside or line:match("^upstream%s+(%S+)%s*{") == zone
    end
    file:close()
    return parse(table.concat(lines, "\n"))
end

-- ------------------------------------------------------------------ the dictionary

local function save(zone, servers)
    local done, reason = dict:safe_set("peers:" .. zone, dump(servers))
    if done then
        dict:incr("version:" .. zone, 1, 0)
    end
    return done, reason
end

-- Call `work` while no other worker changes the zone. `pause` sleeps; without it (where that is not allowed)
-- this spins.
local function locked(zone, pause, work)
    local key = "lock:" .. zone
    for _ = 1, pause and 400 or 20000 do
        if dict:add(key, true, LOCK_SECONDS) then
            local good, first, second = pcall(work)
            dict:delete(key)
            if not good then
                error(first, 0)
            end
            return first, second
        end
        if pause then
            pause(0.005)
        end
    end
    return nil, "busy"
end

local function remember(zone)
    local zones = dict:get("zones") or "\n"
    if not zones:find("\n" .. zone .. "\n", 1, true) then
        dict:set("zones", zones .. zone .. "\n")
    end
end

-- Load the file of a zone if it has changed since it was last read.
local function load(zone)
    local fresh = read_file(zone)
    if not fresh or #fresh == 0 then
        return
    end
    locked(zone, nil, function()
        local text, before = dump(fresh), dict:get("peers:" .. zone)
        if before and dict:get("file:" .. zone) == text then
            return
        end
        local _, known = parse(before or "")
        for _, server in ipairs(fresh) do
            if known[server.address] then
                server.down = known[server.address].down
            end
        end
        save(zone, fresh)
        dict:set("file:" .. zone, text)
        remember(zone)
    end)
end

local function text_of(zone)
    _M.start()
    local text = dict:get("peers:" .. zone)
    if not text then
        load(zone)
        text = dict:get("peers:" .. zone)
    end
    return text
end

-- ------------------------------------------------------------------ life

-- For init_by_lua: the absolute path of the directory with agentd's upstream files.
function _M.setup(upstreams)
    assert(dict, "the directive lua_shared_dict dynamic_upstream is missing")
    directory = upstreams
end

-- For init_worker_by_lua: load the files that have changed. Without it, the first request does so.
function _M.start()
    if started then
        return
    end
    started = true
    for zone in (dict:get("zones") or ""):gmatch("[^\n]+") do
        load(zone)
    end
end

-- ------------------------------------------------------------------ balancing

local function upstream_of(zone)
    local known, version = cache[zone], dict:get("version:" .. zone)
    if known and known.version == version then
        return known
    end
    -- The version was read before the text, so a change in between is noticed at the next request.
    local found = { version = version, primary = {}, backup = {}, current = {} }
    for _, server in ipairs((parse(text_of(zone) or ""))) do
        if not server.down then
            found.current[server.address] = known and known.current[server.address] or 0
            table.insert(server.backup and found.backup or found.primary, server)
        end
    end
    cache[zone] = found
    return found
end

local function failed(zone, server)
    if not server or server.max_fails == 0 then
        return
    end
    local name, seconds = zone .. ":" .. server.address, server.fail_timeout
    local fails = dict:incr("fails:" .. name, 1, 0, seconds)
    if fails and fails >= server.max_fails then
        dict:set("dead:" .. name, true, seconds)
        dict:set("trouble:" .. zone, true, math.max(seconds, dict:ttl("trouble:" .. zone) or 0))
    end
end

-- Smooth weighted round robin, like nginx's own: it spreads the turns of a heavy server evenly.
local function pick(upstream, servers, zone, tried)
    local current, trouble = upstream.current, #servers > 1 and dict:get("trouble:" .. zone)
    local best, total = nil, 0
    for _, server in ipairs(servers) do
        local address = server.address
        if not tried[address] and not (trouble and dict:get("dead:" .. zone .. ":" .. address)) then
            current[address] = current[address] + server.weight
            total = total + server.weight
            if not best or current[address] > current[best.address] then
                best = server
            end
        end
    end
    if best then
        current[best.address] = current[best.address] - total
    end
    return best
end

-- For balancer_by_lua: choose the server for this attempt.
function _M.balance(zone)
    local upstream, kind = upstream_of(zone), balancer.get_last_failure()
    local attempt = ngx.ctx.dynamic_upstream
    if not (kind and attempt and attempt.zone == zone) then
        attempt = { zone = zone, tried = {} }
        ngx.ctx.dynamic_upstream = attempt
        local others = #upstream.primary + #upstream.backup - 1
        if others > 0 then
            balancer.set_more_tries(math.min(others, MOST_TRIES))
        end
    elseif kind == "failed" then
        failed(zone, attempt.last)
    end
    local server = pick(upstream, upstream.primary, zone, attempt.tried)
        or pick(upstream, upstream.backup, zone, attempt.tried)
    if not server then
        return ngx.exit(NO_LIVE_SERVER)
    end
    attempt.tried[server.address] = true
    attempt.last = server
    local done, reason = balancer.set_current_peer(server.host, server.port)
    if not done then
        ngx.log(ngx.ERR, "cannot use ", server.address, ": ", reason)
        return ngx.exit(ngx.ERROR)
    end
end

-- For log_by_lua: count a failed last attempt, after which balancer_by_lua is not called again.
function _M.log()
    local attempt = ngx.ctx.dynamic_upstream
    local status, header = ngx.var.upstream_status, ngx.var.upstream_header_time
    if attempt and status and header and header:match("%-$") and (status:match("50[24]$")) then
        failed(attempt.zone, attempt.last)
    end
end

-- ------------------------------------------------------------------ the interface

local function number(text, least)
    if text == nil then
        return nil, true
    end
    local value = text:match("^%d%d?%d?%d?%d?%d?%d?%d?%d?$") and tonumber(text)
    return value, value ~= nil and value ~= false and value >= least
end

-- What the query asks for, or nil if it is not valid. Values are taken as they are: nothing is decoded.
local function wish()
    local asked, var, good = {}, ngx.var, {}
    for _, name in ipairs { "verbose", "add", "remove", "up", "down" } do
        asked[name] = var["arg_" .. name] ~= nil
    end
    asked.weight, good[1] = number(var.arg_weight, 1)
    asked.max_fails, good[2] = number(var.arg_max_fails, 0)
    asked.fail_timeout, good[3] = number(var.arg_fail_timeout, 0)
    if not (good[1] and good[2] and good[3]) or asked.add and asked.remove or asked.up and asked.down then
        return nil
    end
    asked.numbers = asked.weight or asked.max_fails or asked.fail_timeout
    asked.changes = asked.add or asked.remove or asked.up or asked.down or asked.numbers
    asked.verbose = asked.verbose or asked.up or asked.down or asked.numbers
    asked.server = var.arg_server or ""
    return asked
end

local function set(server, asked)
    server.weight = asked.weight or server.weight
    server.max_fails = asked.max_fails or server.max_fails
    server.fail_timeout = asked.fail_timeout or server.fail_timeout
    if asked.up or asked.down then
        server.down = asked.down
    end
end

-- Make the change in `servers`; false if it must be refused.
local function change(servers, by_address, asked)
    local known = by_address[asked.server]
    if asked.add then
        local made = not known and parse_line("server " .. asked.server .. ";")
        if not made or made.address ~= asked.server then
            return false
        end
        set(made, asked)
        servers[#servers + 1] = made
    elseif not known then
        return false
    elseif asked.remove then
        local primaries, at = 0, nil
        for index, server in ipairs(servers) do
            primaries = primaries + (server.backup and 0 or 1)
            at = server == known and index or at
        end
        if primaries == 1 and not known.backup then
            return false
        end
        table.remove(servers, at)
    else
        set(known, asked)
    end
    return true
end

local function apply(zone, asked)
    return locked(zone, ngx.sleep, function()
        local servers, by_address = parse(dict:get("peers:" .. zone) or "")
        if not change(servers, by_address, asked) then
            return nil, 400
        end
        if not save(zone, servers) then
            return nil, 500
        end
        if asked.up then -- failures from before it was taken out no longer count
            dict:delete("dead:" .. zone .. ":" .. asked.server)
            dict:delete("fails:" .. zone .. ":" .. asked.server)
        end
        return true
    end)
end

local function list(zone, verbose)
    local lines = {}
    for _, server in ipairs((parse(dict:get("peers:" .. zone) or ""))) do
        if not server.backup then
            lines[#lines + 1] = line_of(server, verbose)
        end
    end
    return table.concat(lines)
end

-- For content_by_lua, in a location that only those who may change upstreams can reach.
function _M.serve()
    if ngx.req.get_method() ~= "GET" then
        return ngx.exit(405)
    end
    local asked, zone = wish(), ngx.var.arg_upstream or ""
    if not asked then
        return ngx.exit(400)
    end
    if not text_of(zone) then
        return ngx.exit(404)
    end
    if asked.changes then
        local done, status = apply(zone, asked)
        if not done then
            return ngx.exit(status == "busy" and 503 or status)
        end
    end
    local body = list(zone, asked.verbose)
    ngx.header.content_type = "text/plain"
    ngx.header.content_length = #body
    ngx.print(body)
end

return _M
