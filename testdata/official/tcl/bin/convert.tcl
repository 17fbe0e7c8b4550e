foreach f [lsort [glob /opt/units/units/*.tcl]] { source $f }
lassign $argv value from to
puts "$value $from is [format %g [convert $from $to $value]] $to"
