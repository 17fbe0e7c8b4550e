local lpeg = require "lpeg"
local space = lpeg.S " \t" ^ 0
local number = lpeg.R "09" ^ 1 / tonumber * space
local add, times = lpeg.C(lpeg.S "+-") * space, lpeg.C(lpeg.S "*/") * space

local function eval(left, op, right)
  if op == "+" then return left + right end
  if op == "-" then return left - right end
  if op == "*" then return left * right end
  return left / right
end

local V = lpeg.V
local grammar = lpeg.P { "Sum",
  Sum = lpeg.Cf(V "Product" * lpeg.Cg(add * V "Product") ^ 0, eval),
  Product = lpeg.Cf(V "Value" * lpeg.Cg(times * V "Value") ^ 0, eval),
  Value = number + "(" * space * V "Sum" * ")" * space,
}

return { value = function(s) return assert((space * grammar * -1):match(s), "no expression") end }
