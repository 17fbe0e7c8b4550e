local calc = require "calc"
local name = io.open("/app/checked"):read("l")
print(name .. ": " .. arg[1] .. " = " .. calc.value(arg[1]))
