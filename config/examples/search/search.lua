-- Chooses a server by the search words (rendezvous hashing): each server has a score for the words, and the highest
-- score wins. When a server is added or removed, only the words that it wins move.

local balancer = require "ngx.balancer"

local _M = {}

-- The servers, from the highest score to the lowest. MD5 only mixes bits here; it does not protect anything.
local function ranked(words, servers)
    local scores = {}
    for _, server in ipairs(servers) do
        scores[server] = ngx.md5_bin(server .. "\0" .. words)
    end
    table.sort(servers, function(one, other) return scores[one] > scores[other] end)
    return servers
end

-- For balancer_by_lua: the first attempt, and each one after a failure.
function _M.balance(words, servers)
    local attempt = (ngx.ctx.search_attempt or 0) + 1
    ngx.ctx.search_attempt = attempt
    if attempt == 1 and #servers > 1 then
        balancer.set_more_tries(#servers - 1)
    end
    local server = ranked(words, servers)[attempt]
    if not server then
        ngx.log(ngx.ERR, "no search server is left to try")
        return ngx.exit(ngx.ERROR)
    end
    local host, port = server:match("^(.*):(%d+)$")
    local done, reason = balancer.set_current_peer(host, tonumber(port))
    if not done then
        ngx.log(ngx.ERR, "cannot use ", server, ": ", reason)
        return ngx.exit(ngx.ERROR)
    end
end

return _M
